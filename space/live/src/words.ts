/** Names of a data set in words: "Skin: brown" for "skin_tone=brown". */

/** Return a column in words: "skin_tone" is "Skin", "hair_color" is "Hair color". */
export function columnWords(name: string): string {
  const words = plain(name.split("=")[0].replace(/_tone$/, ""));
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Return a value in words: "turtleNeck" of "clothes=turtleNeck" is "turtle neck"; "" for an attribute without values. */
export function valueWords(name: string): string {
  return plain(name.slice(name.indexOf("=") + 1 || name.length));
}

/** Return both: "Skin: brown", or "Beard". */
export function nameWords(name: string): string {
  const value = valueWords(name);
  return value ? `${columnWords(name)}: ${value}` : columnWords(name);
}

/** Group names by their column, in order. */
export function byColumn(names: string[]): string[][] {
  const groups = new Map<string, string[]>();
  for (const name of names) {
    const column = name.split("=")[0];
    groups.set(column, [...(groups.get(column) ?? []), name]);
  }
  return [...groups.values()];
}

function plain(text: string): string {
  return text.replace(/_/g, " ").replace(/([a-z])([A-Z])/g, (_, end: string, start: string) => `${end} ${start.toLowerCase()}`);
}
