// The picture to draw over, and a brush on it. Runs inside gr.HTML, which hands over `element`, `props` and `watch`, behind
// dom.js. Painted is what shall be drawn anew; `paint` of the value is that, white on black, as a PNG.
const root = element.querySelector(".begun");
let shown = null;
let wipe = () => {}; // takes the strokes off the picture that is shown

const brush = { size: 48, erasing: false }; // in px of the page

// Strokes on two canvases: what is seen, and what is told.
const dab = (contexts, from, to, scale) =>
  contexts.forEach((context) => {
    context.globalCompositeOperation = brush.erasing ? "destination-out" : "source-over";
    context.lineWidth = brush.size * scale;
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
  });

const context = (canvas, colour) => {
  const drawing = canvas.getContext("2d");
  Object.assign(drawing, { lineCap: "round", lineJoin: "round", strokeStyle: colour });
  return drawing;
};

const tell = (mask) => {
  const page = make("canvas");
  Object.assign(page, { width: mask.width, height: mask.height });
  const drawing = page.getContext("2d");
  drawing.fillStyle = "black";
  drawing.fillRect(0, 0, page.width, page.height);
  drawing.drawImage(mask, 0, 0);
  props.value = { ...props.value, paint: page.toDataURL("image/png") };
};

const canvasOver = (image) => {
  const [seen, mask] = [make("canvas", "paint"), make("canvas")];
  [seen, mask].forEach((canvas) => Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight }));
  seen.setAttribute("role", "img");
  seen.setAttribute("aria-label", "Paint here what shall be drawn anew");
  const thread = getComputedStyle(root).getPropertyValue("--thread").trim() || "#a23a2a";
  const contexts = [context(seen, thread), context(mask, "white")];
  const at = (event) => {
    const box = seen.getBoundingClientRect();
    const scale = seen.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale, scale };
  };
  let last = null;
  seen.addEventListener("pointerdown", (event) => {
    seen.setPointerCapture(event.pointerId);
    last = at(event);
    dab(contexts, last, last, last.scale);
  });
  seen.addEventListener("pointermove", (event) => {
    if (last === null) return;
    const now = at(event);
    dab(contexts, last, now, now.scale);
    last = now;
  });
  const end = () => {
    if (last === null) return;
    last = null;
    tell(mask);
  };
  ["pointerup", "pointercancel"].forEach((name) => seen.addEventListener(name, end));
  wipe = () => contexts.forEach((drawing) => drawing.clearRect(0, 0, seen.width, seen.height));
  return seen;
};

const tools = () => {
  const line = make("div", "tools");
  const size = make("input");
  Object.assign(size, { type: "range", min: 8, max: 128, step: 4, value: brush.size });
  size.setAttribute("aria-label", "Size of the brush");
  size.addEventListener("input", () => (brush.size = Number(size.value)));
  const rubber = button("chip", "Rub out", "Take paint away with the brush", () => {
    brush.erasing = !brush.erasing;
    rubber.classList.toggle("said", brush.erasing);
    rubber.setAttribute("aria-pressed", brush.erasing);
  });
  rubber.setAttribute("aria-pressed", false);
  line.append(make("span", "hint", "Brush"), size, rubber, button("chip", "Clear", "Take all paint away", () => {
    props.value = { ...props.value, paint: null };
    wipe();
  }));
  return line;
};

const draw = () => {
  const look = props.value?.look ?? null;
  if (look === shown) {
    if (!props.value?.paint) wipe(); // the same picture chosen again, without a stroke; else a stroke of our own
    return;
  }
  [shown, wipe] = [look, () => {}];
  brush.erasing = false;
  root.replaceChildren();
  if (look === null) return;
  const image = make("img");
  image.alt = "The picture to draw over";
  image.addEventListener("load", () => {
    if (shown !== look) return;
    const seen = canvasOver(image);
    const easel = make("div", "easel");
    easel.append(image, seen);
    root.replaceChildren(
      make("p", "hint", "Paint over what shall be drawn anew. Paint nothing, and all of it is."), easel, tools(),
    );
  });
  image.src = look;
};

draw();
watch("value", draw);
