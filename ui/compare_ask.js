// What to compare, in the browser: each LoRA's part, or a grid of one or two axes. Runs inside gr.HTML, which hands over
// `element` and `props`, behind dom.js. `props.models` and `props.cards` are what a model or LoRA axis offers.
const root = element.querySelector(".compare-ask");
const NOTHING = "";
const FIELDS = { weight: "Weight of a LoRA", lora: "Choice of LoRA", steps: "Steps", guidance: "Guidance", seed: "Seed", prompt: "Words in the prompt", model: "Model" };
const OF_LORAS = ["weight", "lora"];
const HINTS = {
  prompt: "red, blue, green: the first is replaced by each",
  lora: "Others by ref: USER/REPO, …",
};

const blend = () => window.loom?.blend?.() ?? { rows: [] };
const heard = () => blend().rows.filter((row) => !row.why_not);
const model = () => props.models.find(({ key }) => key === blend().model) ?? props.models[0];
const unique = (numbers) => [...new Set(numbers)].join(", ");
const ranged = (numbers, [low, high]) => unique(numbers.map((number) => Math.min(high, Math.max(low, number))));
const START = {
  weight: () => "0.5, 1, 1.5",
  lora: () => "",
  steps: () => ranged([Math.round(model().steps / 2), model().steps, 2 * model().steps], model().steps_range),
  guidance: () => ranged([1, model().guidance, model().guidance + 2], model().guidance_range),
  seed: () => "1, 2, 3, 4",
  prompt: () => "",
  model: () => "",
};

const axis = (field) => ({ field, lora: null, text: START[field]?.() ?? "", chosen: [] });
let state = { kind: "loras", baseline: true, columns: axis("weight"), rows: axis(NOTHING) };

const said = ({ field, lora, text, chosen }) => {
  if (field === NOTHING) return null;
  const which = OF_LORAS.includes(field) ? { lora } : {};
  return { field, ...which, written: field === "model" ? [] : read({ field, text }), chosen: ["lora", "model"].includes(field) ? chosen : [] };
};

// Values stand between commas, or between semicolons where a comma belongs to them: to words, or to a number.
const read = ({ field, text }) => {
  const numbers = !["prompt", "lora"].includes(field);
  const parts = text.split(text.includes(";") ? ";" : ",").map((part) => part.trim()).filter(Boolean);
  return numbers ? parts.map((part) => part.replace(/^(-?\d*),(\d+)$/, "$1.$2")) : parts;
};

const asRead = (line) => {
  const parts = read(line);
  const decimal = ["weight", "guidance"].includes(line.field) && !line.text.includes(";") && /\d,\d/.test(line.text);
  const how = decimal ? "; with ; between values a comma is a decimal one" : "";
  return parts.length ? `Read as ${parts.join(" · ")}${how}` : "";
};

const send = () => {
  const { kind, baseline, columns, rows } = state;
  props.value = { kind, baseline, columns: said(columns), rows: said(rows) };
};

const select = (options, value, label, onChange) => {
  const node = make("select");
  node.append(...options.map(([key, text]) => new Option(text, key)));
  node.value = value;
  node.setAttribute("aria-label", label);
  node.addEventListener("change", () => onChange(node.value));
  return node;
};

const chips = (offered, line) => {
  const group = make("div", "offered");
  offered.forEach(([key, text]) => {
    const picked = line.chosen.includes(key);
    const chip = button(picked ? "chip said" : "chip", text, text, () => {
      line.chosen = picked ? line.chosen.filter((other) => other !== key) : [...line.chosen, key];
      draw();
    });
    chip.setAttribute("aria-pressed", picked);
    group.append(chip);
  });
  return group;
};

const loraChips = (line) => {
  const others = heard().filter((row) => row.ref !== line.lora).map((row) => row.ref);
  const own = heard().filter((row) => row.ref === line.lora);
  const cards = [...own, ...props.cards.filter((card) => card.family === blend().family && card.ref !== line.lora)];
  return chips([...cards.filter((card) => !others.includes(card.ref)).map(({ ref, title }) => [ref, title]), ["none", "None"]], line);
};

const axisLine = (name, label, line, fields) => {
  const node = make("div", "axis");
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", label);
  const change = (field) => {
    state = { ...state, [name]: axis(field) };
    draw();
  };
  node.append(make("span", "hint", label), select(fields, line.field, `${label}: what varies`, change));
  if (line.field === NOTHING) return node;
  if (OF_LORAS.includes(line.field)) {
    const rows = heard();
    if (!rows.some((row) => row.ref === line.lora)) line.lora = rows[0]?.ref ?? null;
    if (rows.length) {
      const which = select(rows.map(({ ref, title }) => [ref, line.field === "lora" ? `in place of ${title}` : title]), line.lora, `${label}: which LoRA`, (ref) => {
        Object.assign(line, { lora: ref, chosen: [] });
        draw();
      });
      node.append(which);
    } else if (line.field === "weight") node.append(make("p", "hint", "Pick a LoRA on Create first."));
  }
  if (line.field === "model") node.append(chips(props.models.filter(({ available }) => available).map(({ key, title }) => [key, title]), line));
  if (line.field === "lora") node.append(loraChips(line));
  if (line.field !== "model") {
    const values = Object.assign(make("input", "values"), { type: "text", value: line.text, placeholder: HINTS[line.field] ?? "Values with , or ; between", spellcheck: false });
    values.setAttribute("aria-label", `${label}: values`);
    const told = Object.assign(make("span", "hint read", asRead(line)), { id: `compare-${name}-read` });
    values.setAttribute("aria-describedby", told.id);
    values.addEventListener("input", () => {
      line.text = values.value;
      told.textContent = asRead(line);
      send();
    });
    node.append(values, told);
  }
  return node;
};

const kinds = () => {
  const group = make("div", "kinds");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", "What to compare");
  for (const [kind, title, about] of [
    ["loras", "What each LoRA does", "Without LoRAs, with each alone, with all, and with all but each."],
    ["grid", "A grid", "One or two things varied: weights, LoRAs, steps, guidance, seeds, words, models."],
  ]) {
    const label = make("label", state.kind === kind ? "kind chosen" : "kind");
    const radio = Object.assign(make("input"), { type: "radio", name: "compare-kind", value: kind, checked: state.kind === kind });
    radio.addEventListener("change", () => {
      state = { ...state, kind };
      draw();
    });
    const text = make("span");
    text.append(make("b", "", title), make("span", "hint", about));
    label.append(radio, text);
    group.append(label);
  }
  return group;
};

const baseline = () => {
  const label = make("label", "baseline");
  const box = Object.assign(make("input"), { type: "checkbox", checked: state.baseline });
  box.addEventListener("change", () => {
    state = { ...state, baseline: box.checked };
    send();
  });
  label.append(box, make("span", "", "With pictures without LoRAs beside them"));
  return label;
};

const taken = () => {
  const prompt = document.querySelector("#prompt textarea")?.value.trim() ?? "";
  const rows = heard().filter((row) => !row.muted);
  const line = make("p", "taken");
  line.append(make("span", "hint", "From Create: "), Object.assign(make("i", "", prompt.length > 120 ? `${prompt.slice(0, 120)}…` : prompt || "no prompt yet"), { translate: !prompt }));
  line.append(make("span", "hint", ` · ${model().title} · ${rows.length ? rows.map(({ title, weight }) => `${title} × ${weight}`).join(", ") : "no LoRAs"}`));
  if (document.querySelector("#over-paint canvas")) line.append(make("span", "hint", " · over its picture"));
  return line;
};

const draw = () => {
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  const label = focused?.getAttribute("aria-label") ?? focused?.value;
  const fields = Object.entries(FIELDS);
  root.replaceChildren(taken(), kinds());
  if (state.kind === "grid") {
    const grid = make("div", "axes");
    grid.append(axisLine("columns", "Across", state.columns, fields), axisLine("rows", "Down", state.rows, [[NOTHING, "Nothing"], ...fields]), baseline());
    root.append(grid);
  }
  if (focused) [...root.querySelectorAll("[aria-label], input")].find((node) => [inWords(node.getAttribute("aria-label") ?? ""), node.value].includes(label))?.focus();
  send();
};

const fresh = () => root.querySelector(".taken")?.replaceWith(taken());
document.addEventListener("loom:blend", draw);
document.addEventListener("input", (event) => event.target.closest?.("#prompt") && fresh());
document.addEventListener("click", (event) => event.target.closest?.("#compare-tab-button") && fresh());
draw();
