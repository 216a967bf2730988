// The page in the visitor's language: the browser's, or that of `?lang=` in the address. Gradio translates the labels of its
// components alone; what the server sends as HTML and what scripts build is English when it comes, and gets the words of
// ui/languages here, before it is painted. What others wrote (titles, prompts) stays as it is: `OTHERS` and translate="no".
(() => {
  const OTHERS = "[translate=no], script, style, textarea, code, pre, .blend .title, .lora .title, .metadata dl, .no-picture, #recipe-json, [data-say], [data-prompt]";
  const ATTRIBUTES = ["placeholder", "title", "aria-label", "alt"];
  // Words that style sheets write, by the property they read them from.
  const STYLED = { "--word-perhaps": "Perhaps.", "--word-picked": "in the blend", "--word-drop": "Drop it: its recipe fills the form" };
  const ENGLISH = "en";

  const tables = window.gradio_config?.i18n_translations ?? {};
  const base = (tag) => (tag ?? "").split("-")[0].toLowerCase();
  const known = (tag) => base(tag) === ENGLISH || Object.hasOwn(tables, base(tag));
  const wished = new URLSearchParams(location.search).get("lang");
  const language = [wished, navigator.language].find(known) ?? ENGLISH;
  const root = document.documentElement;
  root.lang = language;

  /** Gradio has read the browser's own language by now; its module is asked for another. */
  const turn = async () => {
    const core = document.querySelector('link[rel=modulepreload][href*="/core-"]')?.href;
    const gradio = core ? await import(core) : {};
    const tag = Object.keys(gradio.process_langs?.() ?? {}).find((other) => base(other) === base(language));
    gradio.changeLocale?.(tag ?? ENGLISH);
    root.lang = tag ?? language;
  };
  if (base(language) !== base(navigator.language)) turn();
  if (base(language) === ENGLISH) return;

  // Words ----------------------------------------------------------------------------------------------------------------

  const words = new Map(Object.entries(tables[base(language)]));
  const HOLES = { "{}": "(.+?)", "{n}": "([-−]?[\\d.,]+)" };
  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const pattern = (text) => text.split(/(\{n?\})/).map((part) => HOLES[part] ?? escaped(part)).join("");
  const forms = [...words]
    .filter(([text]) => /\{n?\}/.test(text))
    .sort(([one], [other]) => other.length - one.length)
    .map(([text, word]) => [new RegExp(`^${pattern(text)}$`, "u"), word]);

  const own = (text) => words.get(text) ?? text;
  const whole = (text) => {
    if (words.has(text)) return words.get(text);
    for (const [form, word] of forms) {
      const found = form.exec(text);
      let place = 0;
      const held = (number) => found[number || (place += 1)];
      if (found) return word.replace(/\{(\d?)\}/g, (_, number) => own(held(number)));
    }
    return null;
  };

  const JOINTS = [[" · ", " · "], [/(?<=[.:]) (?=\p{Lu})/u, " "], [", ", ", "]];
  const parted = (text) => {
    for (const [between, joint] of JOINTS) {
      const parts = text.split(between);
      const said = parts.map((part) => whole(part) ?? part);
      if (parts.length > 1 && said.some((part, place) => part !== parts[place])) return said.join(joint).replace(/(?<=[。：；]) /g, "");
    }
    return null;
  };

  const said = (text) => {
    const bare = text.trim();
    if (!bare) return text;
    const even = bare.replace(/\s+/g, " ");
    const found = whole(even) ?? parted(even);
    return found === null ? text : text.replace(bare, () => found);
  };
  window.loom = { ...window.loom, words: said };

  // The page -------------------------------------------------------------------------------------------------------------

  const done = new WeakMap(); // text nodes, and what was put into them here

  const put = (node) => {
    if (done.get(node) === node.data || node.parentElement?.closest(OTHERS)) return;
    const now = said(node.data);
    done.set(node, now);
    if (now !== node.data) node.data = now;
  };

  const putInto = (element, names = ATTRIBUTES) => {
    if (element.closest("[translate=no]")) return;
    names.filter((name) => element.hasAttribute(name)).forEach((name) => {
      const before = element.getAttribute(name);
      const now = said(before);
      if (now !== before) element.setAttribute(name, now);
    });
  };

  const putAll = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return put(node);
    if (node.nodeType !== Node.ELEMENT_NODE) return;
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
    for (let now = node; now; now = walker.nextNode()) now.nodeType === Node.TEXT_NODE ? put(now) : putInto(now);
  };

  // A dropdown that nobody types into shows its choice as the value of a box, which is no part of the tree.
  const putChoices = () => document.querySelectorAll("input[readonly]").forEach((box) => {
    const now = said(box.value);
    if (now !== box.value) box.value = now;
  });

  const WATCHED = { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES };
  new MutationObserver((changes) => {
    changes.forEach(({ type, target, addedNodes, attributeName }) => {
      if (type === "childList") addedNodes.forEach(putAll);
      else if (type === "attributes") putInto(target, [attributeName]);
      else put(target);
    });
    putChoices();
  }).observe(document.body, WATCHED);
  putAll(document.body);
  Object.entries(STYLED).forEach(([name, text]) => root.style.setProperty(name, JSON.stringify(said(text))));
})();
