// The form in this browser: kept as it changes, given back when the page has loaded again.
const formMemory = () => {
  const FORM = "loom-form";
  const VERSION = 1;
  let form = { version: VERSION };
  let begun = false; // what components say of themselves while they are made is no change of a visitor's

  const keep = (changed) => {
    if (!begun) return;
    form = { ...form, ...changed };
    if (form.model !== undefined) keepAs(FORM, JSON.stringify(form));
  };

  document.addEventListener("loom:blend", () => {
    const { rows = [], total_strength = null, allow_partial = false } = window.loom.blend?.() ?? {};
    keep({ blend: { rows, total_strength, allow_partial: Boolean(allow_partial) } });
  });

  return {
    keepForm(names, values) {
      keep(Object.fromEntries(names.map((name, place) => [name, values[place]])));
      return [];
    },
    /** What was kept, as text, once; nothing where a link says what to draw. */
    keptForm(link) {
      begun = true;
      return link === null ? kept(FORM) ?? "" : "";
    },
  };
};
