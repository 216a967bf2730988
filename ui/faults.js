// Errors where they arise: the sentence that the notice holds for a field moves beside it, and the field gets the focus.
const faults = () => {
  const id = (field) => (field === "images" || field === "model" ? field : field.replaceAll("_", "-"));
  const rowOf = (ref) => [...document.querySelectorAll("#blend .thread")].find((row) => row.dataset.ref === ref);
  const BOXES = "input:not([type=file]):not([type=range]), textarea, select";

  /** The box that a fault is about, and what the sentence stands behind. */
  const placeOf = ({ field, ref }) => {
    if (field === "total_strength") {
      const line = document.querySelector('#blend [data-field="total_strength"]');
      return line && { box: line.querySelector("input[type=number]"), behind: line };
    }
    if (!ref) {
      const block = document.getElementById(id(field));
      return block && { box: block.querySelector(BOXES), behind: block.lastElementChild };
    }
    const row = rowOf(ref);
    if (!row) return null;
    const more = row.querySelector("details.controls");
    if (more && ["text_encoder", "start", "end", "blocks"].includes(field)) {
      more.open = true;
      more.dispatchEvent(new Event("toggle")); // which fills it, and comes late by itself
    }
    const box = row.querySelector(`[data-part="${field}"]`) ?? row.querySelector(".weight input[type=number]");
    return { box, behind: row.querySelector(".head") };
  };

  const clear = () => {
    document.querySelectorAll(".fault").forEach((fault) => fault.remove());
    document.querySelectorAll("[aria-describedby='fault']").forEach((box) => {
      box.removeAttribute("aria-describedby");
      box.removeAttribute("aria-invalid");
    });
  };

  const show = () => {
    clear();
    const told = document.querySelector("#notice [data-field]");
    const place = told && placeOf(told.dataset);
    if (!place) return told?.removeAttribute("data-field");
    const fault = Object.assign(document.createElement("p"), { className: "fault", id: "fault", textContent: told.textContent });
    fault.setAttribute("role", "alert");
    place.behind.after(fault);
    place.behind.closest(".block.folds")?.dispatchEvent(new CustomEvent("loom:unfold"));
    place.box?.setAttribute("aria-invalid", "true");
    place.box?.setAttribute("aria-describedby", "fault");
    place.box?.focus({ preventScroll: true });
    fault.scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("input", clear);
  document.addEventListener("loom:blend", clear);
  return { show, clear };
};
