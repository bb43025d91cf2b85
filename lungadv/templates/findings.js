"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { rows, columns, findings } = data;
  const [width, height] = data.size_mm;
  const find = (id) => document.getElementById(id);
  const stage = find("stage"), slice = find("slice"), marks = find("marks"), slider = find("slider"), closeup = find("closeup");
  const KEPT = 64; // decoded slices
  const CLOSEUP_MM = 60;
  const scratch = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const decoded = new Map(); // slice -> its grey values
  const LETTERS_PX = 13;
  let index = -1, shades, chosen = -1, turned = 0;

  async function load(k) {
    if (!decoded.has(k)) {
      const image = new Image();
      image.src = data.slices[k];
      await image.decode();
      const context = scratch.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      decoded.set(k, context.getImageData(0, 0, columns, rows).data.filter((_, i) => i % 4 === 0));
      if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
    }
    return decoded.get(k);
  }

  async function draw() {
    const wanted = index;
    const values = await load(wanted);
    if (wanted !== index) return; // scrolled on meanwhile
    const context = slice.getContext("2d");
    const picture = context.createImageData(columns, rows);
    const pixels = new Uint32Array(picture.data.buffer);
    for (let i = 0; i < values.length; i++) pixels[i] = 0xff000000 | (shades[values[i]] * 0x010101); // opaque grey
    context.putImageData(picture, 0, 0);
    slice.dataset.shown = wanted + 1;
    drawCloseup();
  }

  function drawCloseup() {
    const context = closeup.getContext("2d");
    context.clearRect(0, 0, closeup.width, closeup.height);
    if (chosen < 0) return;
    const { x_mm, y_mm } = findings[chosen];
    const half = CLOSEUP_MM / 2, x = columns / width, y = rows / height;
    context.drawImage(slice, (x_mm - half) * x, (y_mm - half) * y, CLOSEUP_MM * x, CLOSEUP_MM * y, 0, 0, closeup.width, closeup.height);
  }

  function add(name, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    marks.append(element);
  }

  function ring(finding, k) { // where the finding's ball cuts the slice
    const away = (index - finding.slice) * data.spacing_mm, radius = finding.diameter_mm / 2;
    if (Math.abs(away) >= Math.max(radius, data.spacing_mm / 2 + 1e-6)) return;
    const cut = Math.sqrt(Math.max(0, radius ** 2 - away ** 2)) + 2; // mm: the ring lies outside of what it marks
    add("circle", { cx: finding.x_mm, cy: finding.y_mm, r: cut, class: k === chosen ? "chosen" : "", "data-mark": k });
    const size = LETTERS_PX * width / stage.clientWidth; // mm: letters do not grow with the picture
    add("text", { x: finding.x_mm + cut + 1, y: finding.y_mm + size / 3, style: `font-size: ${size}px` }, String(k + 1));
  }

  function show(k) {
    const last = data.slices.length - 1;
    index = Math.min(last, Math.max(0, Math.round(k)));
    slider.value = index + 1;
    marks.replaceChildren();
    findings.forEach((finding, i) => { if (i === chosen || finding.probability > 0.5) ring(finding, i); });
    const z = (data.z_mm[0] + index * data.z_mm[1]).toFixed(1);
    const text = `slice ${index + 1} of ${last + 1}, z = ${z} mm, ${document.querySelector("[aria-pressed=true]").dataset.window} window`;
    find("where").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    slice.setAttribute("aria-label", "Axial " + text);
    draw();
  }

  function choose(k) {
    chosen = k;
    document.querySelectorAll("tr[data-finding]").forEach((row) => row.classList.toggle("chosen", Number(row.dataset.finding) === k));
    const { probability, diameter_mm } = findings[k];
    find("chosen").textContent = `Finding ${k + 1}: probability ${probability.toFixed(2)}, ${diameter_mm.toFixed(0)} mm across. The picture is ${CLOSEUP_MM} mm wide.`;
    show(findings[k].slice);
  }

  function setWindow(button) {
    document.querySelectorAll("[data-window]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    const [level, range] = data.windows[button.dataset.window];
    shades = Uint8ClampedArray.from(data.hu, (hu) => 255 * ((hu - level) / range + 0.5));
  }

  slider.addEventListener("input", () => show(slider.value - 1));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    turned += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / 50 : event.deltaY;
    const steps = Math.trunc(turned);
    turned -= steps;
    if (steps) show(index - Math.sign(steps) * Math.min(3, Math.abs(steps))); // down: towards the feet
  }, { passive: false });
  const KEYS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
  stage.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    show(index + KEYS[event.key]);
  });
  document.querySelectorAll("[data-window]").forEach((button) => button.addEventListener("click", () => { setWindow(button); show(index); }));
  document.querySelectorAll("tr[data-finding]").forEach((row) => row.addEventListener("click", () => {
    choose(Number(row.dataset.finding));
    const place = stage.getBoundingClientRect();
    if (place.top < 0 || place.bottom > window.innerHeight) stage.scrollIntoView({ block: "start" });
  }));
  setWindow(document.querySelector("[data-window]"));
  if (findings.length) choose(0);
  else show(data.slices.length / 2);
})();
