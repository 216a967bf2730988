// What the scripts inside gr.HTML build nodes with. Every text of a card enters as textContent: authors wrote it, not we.
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const button = (className, text, label, onClick) => {
  const node = make("button", className, text);
  node.type = "button";
  node.title = label;
  node.setAttribute("aria-label", label);
  node.addEventListener("click", onClick);
  return node;
};

// As the page shows a text that is English here (language.js).
const inWords = (text) => window.loom?.words?.(text) ?? text;

// A card's picture from our own server, or its first letter where it has none to show.
const picture = (card) => {
  const letter = make("span", "no-picture", [...(card.title.trim() || "?")][0].toUpperCase());
  letter.setAttribute("aria-hidden", "true");
  if (!card.picture) return letter;
  const image = make("img", card.nsfw ? "nsfw" : "");
  Object.assign(image, { src: card.picture, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(letter));
  return image;
};

// What this browser remembers of the page; one that stores nothing remembers until the page is closed, or not at all.
const kept = (key) => {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
};

const keepAs = (key, text) => {
  try {
    localStorage.setItem(key, text);
  } catch {
    // full, or forbidden
  }
};

// Which folds were left open, by their ids.
const FOLDS = "loom-folds";
const foldsLeft = () => {
  try {
    return JSON.parse(kept(FOLDS)) ?? {};
  } catch {
    return {}; // not ours
  }
};
const keepFold = (id, open) => keepAs(FOLDS, JSON.stringify({ ...foldsLeft(), [id]: open }));
