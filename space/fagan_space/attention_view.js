// Draws `view_of` of attention_view.py. `element`, `props` and `watch` come from Gradio.

const MARK = "rgb(0, 255, 210)"; // a hue that the heat colors don't have
const OPACITY = [0.45, 0.9]; // of the heat, without attention and at its maximum; as in fagan_hf.attention_maps.pictures

let view = null; // the value, with its bytes decoded
let pinned = null; // [row, column] of the pixel that stays
let pointed = null; // that under the pointer
let chosen = 0; // index of the layer shown

const find = (selector) => element.querySelector(selector);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const clamp = (number, most) => Math.min(Math.max(number, 0), most);

function decode(value) {
  const layers = value.layers.map((layer) => ({
    ...layer,
    maps: bytes(layer.maps),
    peaks: new Float32Array(bytes(layer.peaks).buffer),
  }));
  return { ...value, layers, pixels: bytes(value.pixels), colors: bytes(value.colors) };
}

function receive() {
  const value = props.value;
  const isThere = Boolean(value && value.layers && value.layers.length);
  find(".sides").hidden = !isThere;
  if (!isThere) return;
  const isFirst = view === null;
  view = decode(value);
  if (isFirst) {
    chosen = props.chosen < 0 ? view.layers.length + props.chosen : props.chosen;
    pinned = view.seed === null ? null : linkedPixel();
  }
  chosen = clamp(chosen, view.layers.length - 1);
  const middle = Math.floor(view.size / 2);
  pinned = (pinned ?? [middle, middle]).map((each) => clamp(each, view.size - 1));
  buildStrip();
  showLayer();
  draw();
  keepLink();
}

// A link holds the seed and the pixel: #tab=look-inside&seed=5&pixel=20,31
function link() {
  return new URLSearchParams(location.hash.slice(1));
}

function linkedPixel() {
  const found = /^(\d{1,4}),(\d{1,4})$/.exec(link().get("pixel") ?? "");
  return found ? [Number(found[1]), Number(found[2])] : null;
}

function keepLink() {
  const kept = link();
  if (view.seed === null || kept.get("tab") !== "look-inside") return;
  kept.set("seed", view.seed);
  kept.set("pixel", pinned.join(","));
  history.replaceState(null, "", `#${kept.toString().replace("%2C", ",")}`);
}

function buildStrip() {
  const strip = find(".strip");
  if (strip.children.length === view.layers.length) return;
  strip.replaceChildren(
    ...view.layers.map((layer, index) => {
      const button = document.createElement("button");
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 128;
      const caption = document.createElement("span");
      caption.textContent = `${index + 1}: ${layer.places.join("x")}`;
      button.type = "button";
      button.setAttribute("aria-label", `Layer ${index + 1} of ${view.layers.length}`);
      button.append(canvas, caption);
      button.addEventListener("click", () => {
        chosen = index;
        showLayer();
        draw();
      });
      return button;
    }),
  );
}

// What does not depend on the pixel.
function showLayer() {
  const layer = view.layers[chosen];
  element.querySelectorAll(".branch").forEach((image, index) => (image.src = layer.branches[index]));
  find(".wholes").hidden = !layer.wholes.length;
  element.querySelectorAll(".whole").forEach((image, index) => {
    if (layer.wholes[index]) image.src = layer.wholes[index];
  });
  [...find(".strip").children].forEach((button, index) => button.setAttribute("aria-pressed", String(index === chosen)));
  find(".details").textContent =
    `${layer.name}: gate alpha ${layer.alpha.toFixed(3)} (0 is convolution only, 1 attention only, below 0 subtracts attention).`;
}

function draw() {
  const [row, column] = pointed ?? pinned;
  const image = imageOf(view.pixels, view.size, view.size);
  const picture = find(".picture");
  paint(picture, image);
  frame(picture, row, column, view.size, view.size);
  drawHeat(find(".heat"), view.layers[chosen], row, column);
  [...find(".strip").children].forEach((button, index) => drawHeat(button.firstChild, view.layers[index], row, column));
  const layer = view.layers[chosen];
  const times = layer.peaks[queryOf(layer, row, column)];
  find(".place").textContent = `Row ${row}, column ${column}${pointed ? "" : " (kept)"}`;
  find(".words").textContent =
    `Layer ${chosen + 1} of ${view.layers.length}: ${layer.places.join("x")} places look at ${layer.keys.join("x")}. ` +
    `From here, up to ${times.toFixed(1)} times as much as if it looked everywhere alike.`;
}

function queryOf(layer, row, column) {
  const [rows, columns] = layer.queries;
  return Math.floor((row * rows) / view.size) * columns + Math.floor((column * columns) / view.size);
}

function drawHeat(canvas, layer, row, column) {
  const [rows, columns] = layer.keys;
  const start = queryOf(layer, row, column) * rows * columns;
  const data = new Uint8ClampedArray(4 * view.size * view.size);
  for (let y = 0; y < view.size; y++) {
    for (let x = 0; x < view.size; x++) {
      const at = y * view.size + x;
      const heat = layer.maps[start + Math.floor((y * rows) / view.size) * columns + Math.floor((x * columns) / view.size)];
      const opacity = OPACITY[0] + ((OPACITY[1] - OPACITY[0]) * heat) / 255;
      const [red, green, blue] = view.pixels.subarray(3 * at, 3 * at + 3);
      const gray = 0.299 * red + 0.587 * green + 0.114 * blue;
      for (let channel = 0; channel < 3; channel++) {
        data[4 * at + channel] = opacity * view.colors[3 * heat + channel] + (1 - opacity) * gray;
      }
      data[4 * at + 3] = 255;
    }
  }
  paint(canvas, new ImageData(data, view.size, view.size));
  const [high, wide] = layer.queries;
  frame(canvas, Math.floor((row * high) / view.size), Math.floor((column * wide) / view.size), high, wide);
}

function imageOf(pixels, width, height) {
  const data = new Uint8ClampedArray(4 * width * height);
  for (let at = 0; at < width * height; at++) {
    data.set(pixels.subarray(3 * at, 3 * at + 3), 4 * at);
    data[4 * at + 3] = 255;
  }
  return new ImageData(data, width, height);
}

function paint(canvas, image) {
  const small = new OffscreenCanvas(image.width, image.height);
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function frame(canvas, row, column, rows, columns) {
  const context = canvas.getContext("2d");
  const [high, wide] = [canvas.height / rows, canvas.width / columns];
  context.lineWidth = 4;
  context.strokeStyle = "black";
  context.strokeRect(column * wide, row * high, wide, high);
  context.lineWidth = 2;
  context.strokeStyle = MARK;
  context.strokeRect(column * wide, row * high, wide, high);
}

function pixelAt(event) {
  const box = find(".picture").getBoundingClientRect();
  const place = (offset, side) => clamp(Math.floor((offset / side) * view.size), view.size - 1);
  return [place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)];
}

let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function pin(pixel) {
  pinned = pixel;
  pointed = null;
  drawSoon();
  keepLink();
}

// On `element`, which stays when the template is rendered again.
element.addEventListener("pointermove", (event) => {
  if (!view || !event.target.matches(".picture")) return;
  pointed = pixelAt(event);
  drawSoon();
});
element.addEventListener("pointerout", (event) => {
  if (!view || !event.target.matches(".picture")) return;
  pointed = null;
  drawSoon();
});
element.addEventListener("pointerup", (event) => {
  if (view && event.target.matches(".picture")) pin(pixelAt(event));
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!view || !step || !event.target.matches(".picture")) return;
  event.preventDefault();
  pin(pinned.map((each, axis) => clamp(each + step[axis], view.size - 1)));
});
window.addEventListener("fagan-tab", () => view && keepLink());

watch("value", receive);
receive();
