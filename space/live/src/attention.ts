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
const OPACITY = [0.25, 0.88]; // without attention, and at its maximum

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
    const gray = 0.299 * picture.data[4 * at] + 0.587 * picture.data[4 * at + 1] + 0.114 * picture.data[4 * at + 2];
    const color = colorAt(share);
    for (let i = 0; i < 3; i++) result.data[4 * at + i] = opacity * TABLE[color + i] + (1 - opacity) * gray;
    result.data[4 * at + 3] = 255;
  }
  return result;
}

/** Draw how strongly a path speaks at each position, [height, width], against the strongest of both paths. */
export function strength(values: Float32Array, [rows, columns]: [number, number], most: number): ImageData {
  const result = new ImageData(columns, rows);
  values.forEach((value, at) => {
    const color = colorAt(value / (most || 1));
    for (let i = 0; i < 3; i++) result.data[4 * at + i] = TABLE[color + i];
    result.data[4 * at + 3] = 255;
  });
  return result;
}

/** The colors in 256 steps, RGB: maps are drawn with every move of the pointer. */
const TABLE = Uint8Array.from({ length: 3 * 256 }, (_, i) => {
  const place = (Math.floor(i / 3) / 255) * (COLORS.length - 1);
  const low = Math.min(Math.floor(place), COLORS.length - 2);
  const start = COLORS[low][i % 3];
  return Math.round(start + (place - low) * (COLORS[low + 1][i % 3] - start));
});

/** Return where the color of a share from 0 to 1 begins in the table. */
function colorAt(share: number): number {
  return 3 * Math.round(255 * Math.min(1, Math.max(0, share)));
}
