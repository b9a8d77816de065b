// What Gradio's page lacks: links that hold the tab, arrow keys between tabs, names for all buttons and pictures.
() => {
  const slug = (title) => title.trim().toLowerCase().replaceAll(" ", "-");
  const link = () => new URLSearchParams(location.hash.slice(1));
  const tabs = () => [...document.querySelectorAll('[role="tab"]')].filter((tab) => tab.offsetParent !== null);

  const keepTab = (name) => {
    const kept = link();
    if (kept.get("tab") === name) return;
    kept.set("tab", name);
    if (name !== "look-inside") ["seed", "pixel"].forEach((each) => kept.delete(each));
    history.replaceState(null, "", `#${kept.toString().replace("%2C", ",")}`);
    window.dispatchEvent(new Event("fagan-tab"));
  };

  const wanted = link().get("tab");
  const found = tabs().find((tab) => slug(tab.textContent) === wanted);
  if (found) found.click();
  // Of the page's own tabs; those within tabs are not in links.
  new MutationObserver(() => {
    const chosen = document.querySelector('[role="tablist"]').querySelector('[aria-selected="true"]');
    if (chosen) keepTab(slug(chosen.textContent));
  }).observe(document.body, { subtree: true, attributeFilter: ["aria-selected"] });

  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.target.getAttribute?.("role") !== "tab") return;
    const all = tabs().filter((tab) => tab.closest('[role="tablist"]') === event.target.closest('[role="tablist"]'));
    const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
    event.preventDefault();
    next.focus();
    next.click();
  });

  const ICONS = { Clear: "Remove the picture", Download: "Download", "Full screen": "Full screen" };
  const nameAll = () => {
    for (const button of document.querySelectorAll("button:not([aria-label])")) {
      if (button.innerText.trim()) continue;
      const picture = button.querySelector("img");
      const block = button.closest(".block")?.querySelector('[data-testid="block-label"]')?.innerText.trim();
      const name = button.title || picture?.alt || block || "Unnamed";
      button.setAttribute("aria-label", ICONS[name] ?? name);
    }
    for (const picture of document.querySelectorAll("img")) {
      if (picture.alt) continue;
      const caption = picture.closest("button, figure")?.innerText.trim();
      const block = picture.closest(".block")?.querySelector('[data-testid="block-label"]')?.innerText.trim();
      picture.alt = [block, caption].filter(Boolean).join(", ") || "Picture";
    }
  };
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      nameAll();
    }, 200);
  }).observe(document.body, { childList: true, subtree: true });
  nameAll();
}
