/** The elements of index.html, by id, and small helpers to build others. */

/** Find an element that index.html has. */
export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found as T;
}

/** Build an element. Text is set as text, never as HTML: names come from models of others. */
export function build<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Show a message to the visitor; "" hides it. */
export function notify(text: string): void {
  const notice = element("notice");
  notice.textContent = text;
  notice.hidden = !text;
}

