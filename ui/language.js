// The page in the visitor's language: the browser's, or that of `?lang=` in the address. Gradio translates the labels of its
// components alone; what the server sends as HTML and what scripts build is English when it comes, and gets the words of
// ui/languages here, before it is painted. What others wrote (titles, prompts) stays as it is: `OTHERS` and translate="no".
(() => {
  const OTHERS = "[translate=no], script, style, textarea, code, pre, .blend .title, .lora .title, .metadata dl, .no-picture, .words .chip, #recipe-json, [data-say], [data-prompt]";
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
  const lowered = (text) => text.charAt(0).toLowerCase() + text.slice(1); // the name of a field may begin a sentence
  const word = (text) => words.get(text) ?? words.get(lowered(text));

  // Forms: texts with holes. What stands in “” is somebody's own. The holes of a sentence hold no end of another one, and
  // the first, if it begins with one, no colon.
  const ANY = "(.+?)", CLAUSE = "((?:(?![.:] [\\p{Lu}“]).)+?)", SUBJECT = "((?:(?![.:] ).)+?)", NUMBER = "([-−]?[\\d.,]+)";
  const HOLE = /(“\{\}”|\{[np]?\})/;
  const OWN = { "“{}”": `“${ANY}”`, "{n}": NUMBER };
  const FILLS = { "“{}”": String, "{n}": String, "{}": (text) => word(text) ?? text, "{p}": (text) => told(text) };
  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const begun = (text) => escaped(text).replace(/^\p{Ll}/u, (letter) => `[${letter}${letter.toUpperCase()}]`);
  const formOf = ([text, said]) => {
    const parts = text.split(HOLE); // holes stand at odd places
    const rest = text.endsWith(".") ? CLAUSE : ANY;
    const lead = text.endsWith(".") && !parts[0] ? SUBJECT : rest;
    const hole = (part, place) => OWN[part] ?? (place === 1 ? lead : rest);
    const literal = (part, place) => (place ? escaped(part) : begun(part));
    const expression = parts.map((part, place) => (place % 2 ? hole : literal)(part, place)).join("");
    const literals = parts.filter((_, place) => place % 2 === 0).map((part, place) => (place ? part : part.slice(1)));
    return {
      form: new RegExp(`^${expression}$`, "u"), holes: parts.filter((_, place) => place % 2), said,
      length: literals.join("").length, longest: literals.reduce((one, other) => (other.length > one.length ? other : one)),
    };
  };
  const forms = [...words].filter(([text]) => HOLE.test(text)).map(formOf).sort((one, other) => other.length - one.length);

  /** By the first form that it has. Of the phrases in it one at least must be known, or they are somebody's own words. */
  const formed = (text) => {
    for (const { form, longest, holes, said } of forms) {
      const found = text.includes(longest) && form.exec(text); // most forms are out at the first look
      if (!found) continue;
      const held = holes.map((hole, place) => FILLS[hole](found[place + 1]));
      if (holes.includes("{p}") && holes.every((hole, place) => hole !== "{p}" || held[place] === null)) continue;
      let next = 0;
      return said.replace(/\{(\d?)\}/g, (_, number) => {
        const place = number ? number - 1 : next++;
        return held[place] ?? found[place + 1];
      });
    }
    return null;
  };
  const whole = (text) => word(text) ?? formed(text);

  const FACTS = [[" · ", " · "]];
  const JOINTS = [[/(?<=[.:]) (?=[\p{Lu}“])/u, " "], ["; ", "; ", "；"], [", ", ", "]];
  const open = (text) => text.split("“").length > text.split("”").length;
  /** The parts between joints, but for those that stand in a quoted text. */
  const split = (text, between, joint) => text.split(between).reduce((parts, part) => (
    parts.length && open(parts.at(-1)) ? [...parts.slice(0, -1), parts.at(-1) + joint + part] : [...parts, part]
  ), []);
  const parted = (text, joints) => {
    for (const [between, joint, ours = joint] of joints) {
      const parts = split(text, between, joint);
      const said = parts.map((part) => whole(part) ?? part);
      if (said.every((part, place) => part === parts[place]) || parts.length < 2) continue;
      return said.join(ours).replace(/(?<=[。：；]) /g, "");
    }
    return null;
  };

  const MOST_KEPT = 2000; // texts, of which a page that is drawn anew has most again
  const kept = new Map();
  const told = (text) => {
    if (kept.size > MOST_KEPT) kept.clear();
    if (!kept.has(text)) kept.set(text, word(text) ?? parted(text, FACTS) ?? formed(text) ?? parted(text, JOINTS));
    return kept.get(text);
  };

  const said = (text) => {
    const bare = text.trim();
    if (!bare) return text;
    const even = bare.replace(/\s+/g, " ");
    const found = told(even);
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
