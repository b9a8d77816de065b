/** Drawing where a layer looks, and what each of its two paths says. */

/** From nothing to the maximum, with increasing lightness: it also works in gray. */
const COLORS = [
  [8, 8, 28],
  [66, 22, 104],
  [150, 38, 116],
  [224, 78, 90],
  [250, 150, 82],
  [255, 220, 140],
  [255, 252, 225],
];
const OPACITY = [0.4, 0.92]; // without attention, and at its maximum

export interface Heat {
  values: Float32Array;
  rows: number;
  columns: number;
}

/** Average the maps of several positions of one layer's output, [1, positions, rows, columns]. */
export function meanMap(attention: Float32Array, [rows, columns]: [number, number], wanted: number[]): Heat {
  const area = rows * columns;
  const values = new Float32Array(area);
  for (const position of wanted) {
    for (let i = 0; i < area; i++) values[i] += attention[position * area + i] / wanted.length;
  }
  return { values, rows, columns };
}

/** Lay a map over a picture, in gray so that color means attention. */
export function overlaid(picture: ImageData, heat: Heat): ImageData {
  const result = new ImageData(picture.width, picture.height);
  const most = heat.values.reduce((a, b) => Math.max(a, b), 1e-12);
  for (let at = 0; at < picture.width * picture.height; at++) {
    const row = Math.floor((Math.floor(at / picture.width) * heat.rows) / picture.height);
    const column = Math.floor(((at % picture.width) * heat.columns) / picture.width);
    const share = heat.values[row * heat.columns + column] / most;
    const opacity = OPACITY[0] + share * (OPACITY[1] - OPACITY[0]);
    const [red, green, blue] = picture.data.subarray(4 * at, 4 * at + 3);
    const gray = 0.299 * red + 0.587 * green + 0.114 * blue;
    color(share).forEach((level, i) => (result.data[4 * at + i] = opacity * level + (1 - opacity) * gray));
    result.data[4 * at + 3] = 255;
  }
  return result;
}

/** Draw how strongly a path speaks at each position, [height, width], against the strongest of both paths. */
export function strength(values: Float32Array, [rows, columns]: [number, number], most: number): ImageData {
  const result = new ImageData(columns, rows);
  values.forEach((value, at) => {
    color(value / (most || 1)).forEach((level, i) => (result.data[4 * at + i] = level));
    result.data[4 * at + 3] = 255;
  });
  return result;
}

function color(share: number): number[] {
  const place = Math.min(1, Math.max(0, share)) * (COLORS.length - 1);
  const low = Math.min(Math.floor(place), COLORS.length - 2);
  return COLORS[low].map((start, i) => start + (place - low) * (COLORS[low + 1][i] - start));
}
