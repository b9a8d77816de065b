/** From a model's numbers to pixels on a canvas, by the same rounding as in Python. */

/** Convert one image of a batch, [channels, size, size] in [-1, 1], to RGBA; transparency is over white. */
export function toPixels(images: Float32Array, index: number, channels: number, size: number): ImageData {
  const area = size * size;
  const start = index * channels * area;
  const level = (channel: number, at: number) => {
    const value = Math.fround(Math.fround(images[start + channel * area + at] * 127.5) + 127.5);
    return Math.min(255, Math.max(0, roundHalfToEven(value)));
  };
  const pixels = new ImageData(size, size);
  for (let at = 0; at < area; at++) {
    const behind = channels === 4 ? 255 - level(3, at) : 0; // colors are premultiplied
    for (let color = 0; color < 3; color++) pixels.data[4 * at + color] = level(channels === 1 ? 0 : color, at) + behind;
    pixels.data[4 * at + 3] = 255;
  }
  return pixels;
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** Paint pixels on a canvas of their size. */
export function paint(canvas: HTMLCanvasElement | OffscreenCanvas, pixels: ImageData): void {
  if (canvas.width !== pixels.width) canvas.width = pixels.width;
  if (canvas.height !== pixels.height) canvas.height = pixels.height;
  (canvas.getContext("2d") as CanvasRenderingContext2D).putImageData(pixels, 0, 0);
}

/** Enlarge by whole pixels, without smoothing. */
export function enlarged(pixels: ImageData, scale: number): HTMLCanvasElement {
  const small = document.createElement("canvas");
  paint(small, pixels);
  const large = document.createElement("canvas");
  large.width = pixels.width * scale;
  large.height = pixels.height * scale;
  const context = large.getContext("2d")!;
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, large.width, large.height);
  return large;
}
