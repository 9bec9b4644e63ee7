// The page: everything on it is drawn from the state that the server sends back after each action.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const STEP = 0.01; // of the image: how far an arrow key moves the cross

let offers = null;
let state = null; // of the open image
let selected = null; // id of a region
let working = null; // AbortController of the action under way
let cross = null; // [x, y] in pixels, while the keyboard is in use
let corner = null; // [x, y] of the first corner of a box

// Talking to the server.

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; is `osprey web` still running?");
  }
  const body = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Error(body.error);
  return body;
}

function post(path, fields, signal) {
  return send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(fields),
    signal,
  });
}

// Run one action at a time; show what it does, or the one sentence of its error.
async function act(what, action) {
  if (working) return false;
  working = new AbortController();
  byId("error").hidden = true;
  byId("status").textContent = `${what}…`;
  byId("cancel").hidden = false;
  document.body.setAttribute("aria-busy", "true");
  enable();
  const start = performance.now();
  try {
    const done = await action(working.signal);
    byId("status").textContent = `${done} (${((performance.now() - start) / 1000).toFixed(1)} s)`;
    return true;
  } catch (error) {
    const canceled = error.name === "AbortError";
    byId("status").textContent = canceled ? "Canceled." : "That did not work.";
    if (!canceled) {
      byId("error").textContent = error.message;
      byId("error").hidden = false;
    }
    return false;
  } finally {
    working = null;
    byId("cancel").hidden = true;
    document.body.removeAttribute("aria-busy");
    enable();
  }
}

function wording() {
  const bundles = [byId("bundle").value];
  if (byId("other").value && byId("other").value !== bundles[0]) bundles.push(byId("other").value);
  return { bundles, style: byId("style").value };
}

const imagePath = (rest = "") => `/api/images/${state.image.id}${rest}`;

// Actions.

async function openWith(request) {
  const opened = await request();
  if (state) send(imagePath(), { method: "DELETE" }).catch(() => {});
  selected = cross = corner = null;
  const pixels = byId("pixels");
  pixels.hidden = false;
  pixels.alt = `The image ${opened.image.name}`;
  pixels.src = `/api/images/${opened.image.id}/pixels`;
  byId("stage").classList.add("open");
  byId("stage").style.setProperty("--aspect", opened.image.width / opened.image.height);
  byId("empty").hidden = true;
  show(opened);
  await pixels.decode();
  placeLabels();
  return `${opened.image.name}, ${opened.image.width}×${opened.image.height}`;
}

function openFile(file) {
  if (file.size > offers.upload_bytes) {
    byId("error").textContent = `${file.name} has ${file.size} bytes and at most ${offers.upload_bytes} are taken.`;
    byId("error").hidden = false;
    return;
  }
  const path = `/api/images?name=${encodeURIComponent(file.name)}`;
  act("Opening", (signal) => openWith(() => send(path, { method: "POST", body: file, signal })));
}

function find(kind, values, signal) {
  return post(imagePath("/regions"), { kind, values, ...wording() }, signal).then((found) => {
    selected = found.added.length === 1 ? found.added[0] : null;
    show(found);
    return kind === "everything" ? `${found.added.length} regions` : "One region";
  });
}

const doFind = (kind, values = []) => act("Looking", (signal) => find(kind, values, signal));

async function followCamera() {
  while (byId("live").checked) {
    const done = await act("Looking", async (signal) => {
      await openWith(() => send("/api/camera", { method: "POST", signal }));
      return find("everything", [], signal);
    });
    if (!done) byId("live").checked = false;
  }
}

function redescribe() {
  if (!state || !state.regions.length) return;
  act("Describing", async (signal) => {
    show(await post(imagePath("/words"), wording(), signal));
    return "Described";
  });
}

function ask(event) {
  event.preventDefault();
  const region = byId("about").value ? Number(byId("about").value) : null;
  act("Asking", async (signal) => {
    const fields = { question: byId("question").value, region, bundles: wording().bundles };
    show(await post(imagePath("/questions"), fields, signal));
    return "Answered";
  });
}

function remove(path, done) {
  act("Removing", async (signal) => {
    show(await send(imagePath(path), { method: "DELETE", signal }));
    return done;
  });
}

function forget() {
  act("Closing", async (signal) => {
    await send(imagePath(), { method: "DELETE", signal });
    selected = cross = corner = null;
    byId("pixels").hidden = true;
    byId("pixels").removeAttribute("src");
    byId("stage").classList.remove("open");
    byId("empty").hidden = false;
    show(null);
    return "Closed; the server has forgotten the image";
  });
}

// Drawing the state.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const short = (words) => `${words.text} ${words.confidence.toFixed(2)}`;

function lines(words) {
  return Object.entries(words).flatMap(([bundle, own]) => {
    const kinds = own.kinds.map((kind) => `${kind.name} ${kind.probability.toFixed(2)}`).join(" < ");
    const parts = [element("span", { className: "words", textContent: `${bundle}: ${short(own)}` })];
    if (own.reason) parts.push(element("span", { className: "small", textContent: own.reason }));
    else if (kinds) parts.push(element("span", { className: "small", textContent: kinds }));
    return parts;
  });
}

function show(next) {
  state = next;
  const regions = state ? state.regions : [];
  if (!regions.some((region) => region.id === selected)) selected = null;
  byId("regions").replaceChildren(...regions.map(regionItem));
  byId("regions-title").textContent = regions.length ? `Regions (${regions.length})` : "Regions";
  const options = regions.map((region) => new Option(`region ${region.id}: ${firstText(region)}`, region.id));
  byId("about").replaceChildren(new Option("the whole image", ""), ...options);
  const asked = state ? [...state.asked].reverse() : [];
  byId("answers").replaceChildren(...asked.map(answerItem));
  for (const [id, file] of [["report", "report.json"], ["coco", "coco.json"]]) {
    const ready = state && (id === "report" || regions.length);
    if (ready) byId(id).href = imagePath(`/${file}`);
    else byId(id).removeAttribute("href");
    byId(id).setAttribute("aria-disabled", String(!ready));
  }
  draw();
  enable();
}

function firstText(region) {
  const words = Object.values(region.words)[0];
  return words ? words.text : "";
}

function regionItem(region) {
  const pick = element("button", { type: "button", className: "pick" }, ...lines(region.words));
  pick.style.borderLeftColor = region.color;
  pick.dataset.region = region.id;
  pick.setAttribute("aria-pressed", "false");
  pick.prepend(element("span", { className: "small", textContent: `region ${region.id}, ${region.source}` }));
  pick.addEventListener("click", () => select(selected === region.id ? null : region.id));
  const away = element("button", { type: "button", textContent: "×" });
  away.setAttribute("aria-label", `Remove region ${region.id}`);
  away.addEventListener("click", () => remove(`/regions/${region.id}`, "Removed"));
  return element("li", {}, pick, away);
}

function answerItem(asked) {
  const about = asked.region === null ? "the whole image" : `region ${asked.region}`;
  return element(
    "li",
    {},
    element("span", { className: "small", textContent: `${asked.question} (${about})` }),
    ...lines(asked.words),
  );
}

function select(id) {
  selected = id;
  draw();
}

function draw() {
  const shapes = byId("shapes");
  shapes.replaceChildren();
  byId("labels").replaceChildren();
  byId("about").value = selected === null ? "" : String(selected);
  for (const pick of byId("regions").querySelectorAll(".pick")) {
    pick.setAttribute("aria-pressed", String(Number(pick.dataset.region) === selected));
  }
  if (!state) return;
  const { width, height } = state.image;
  shapes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const region of [...state.regions].sort((a, b) => b.area - a.area)) {
    const mine = region.id === selected;
    const attributes = { d: region.outline, fill: region.color, stroke: region.color };
    shapes.append(shape("path", mine ? { ...attributes, class: "selected" } : attributes));
    const words = Object.values(region.words)[0];
    if (!words) continue;
    const label = element("span", { textContent: short(words), className: mine ? "selected" : "" });
    const [x, y, w, h] = region.box;
    label.style.left = `${(100 * (x + w / 2)) / width}%`;
    label.style.top = `${(100 * (y + h / 2)) / height}%`;
    label.style.borderLeftColor = region.color;
    label.dataset.score = mine ? 2 : words.confidence;
    byId("labels").append(label);
  }
  drawDraft();
  placeLabels();
}

// Hide labels that would cover others: those with less confidence. Keep the rest inside the image.
function placeLabels() {
  const room = byId("labels").getBoundingClientRect();
  const taken = [];
  const labels = [...byId("labels").children].sort((a, b) => b.dataset.score - a.dataset.score);
  for (const label of labels) {
    label.classList.remove("crowded");
    label.style.marginLeft = label.style.marginTop = "0px";
    const box = label.getBoundingClientRect();
    const dx = Math.max(room.left - box.left, 0) + Math.min(room.right - box.right, 0);
    const dy = Math.max(room.top - box.top, 0) + Math.min(room.bottom - box.bottom, 0);
    label.style.marginLeft = `${dx}px`;
    label.style.marginTop = `${dy}px`;
    const own = { l: box.left + dx, r: box.right + dx, t: box.top + dy, b: box.bottom + dy };
    if (taken.some((o) => own.l < o.r && o.l < own.r && own.t < o.b && o.t < own.b)) label.classList.add("crowded");
    else taken.push(own);
  }
}

function drawDraft(to = cross) {
  const shapes = byId("shapes");
  shapes.querySelectorAll(".draft, .cross").forEach((old) => old.remove());
  if (corner && to) {
    const [x, y, width, height] = boxOf(corner, to);
    shapes.append(shape("rect", { class: "draft", x, y, width, height }));
  }
  if (cross) {
    const [x, y] = cross;
    const arm = state.image.width / 40;
    const d = `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`;
    shapes.append(shape("path", { class: "cross", d }));
  }
}

function enable() {
  const ready = Boolean(state) && !working;
  for (const id of ["everything", "forget", "send"]) byId(id).disabled = !ready;
  byId("clear").disabled = !ready || !state.regions.length;
  byId("frame").disabled = Boolean(working);
}

// Pointing: positions are in pixels of the image, and edges lie between pixels.

const tool = () => document.querySelector("input[name=tool]:checked").value;
const clamp = (value, most) => Math.min(Math.max(value, 0), most);

function position(event) {
  const box = byId("pixels").getBoundingClientRect();
  const { width, height } = state.image;
  return [
    clamp(((event.clientX - box.left) / box.width) * width, width),
    clamp(((event.clientY - box.top) / box.height) * height, height),
  ];
}

function boxOf([ax, ay], [bx, by]) {
  return [Math.min(ax, bx), Math.min(ay, by), Math.abs(ax - bx), Math.abs(ay - by)];
}

function point(at) {
  if (tool() === "click") return doFind("click", [at[0] - 0.5, at[1] - 0.5]); // the first pixel's center is 0, 0
  if (!corner) {
    corner = at;
    return drawDraft(at);
  }
  const box = boxOf(corner, at);
  corner = null;
  drawDraft();
  return box[2] < 1 || box[3] < 1 ? undefined : doFind("box", box);
}

function onPointer(event) {
  if (!state || working || event.button !== 0) return;
  event.preventDefault();
  byId("stage").focus({ preventScroll: true });
  cross = null;
  if (event.type === "pointerdown") {
    if (tool() === "box") {
      byId("stage").setPointerCapture(event.pointerId);
      corner = position(event);
      drawDraft(corner);
    } else point(position(event));
  } else if (corner) point(position(event));
}

function onKey(event) {
  if (!state || working) return;
  const { width, height } = state.image;
  const step = STEP * Math.max(width, height) * (event.shiftKey ? 5 : 1);
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in moves) {
    const [dx, dy] = moves[event.key];
    cross = cross || [width / 2, height / 2];
    cross = [clamp(cross[0] + dx * step, width), clamp(cross[1] + dy * step, height)];
    drawDraft();
  } else if (event.key === "Enter" || event.key === " ") {
    cross = cross || [width / 2, height / 2];
    point(cross);
  } else if (event.key === "Escape") {
    cross = corner = null;
    drawDraft();
  } else return;
  event.preventDefault();
}

function listen() {
  const stage = byId("stage");
  stage.addEventListener("pointerdown", onPointer);
  stage.addEventListener("pointerup", onPointer);
  stage.addEventListener("pointermove", (event) => corner && event.buttons && drawDraft(position(event)));
  stage.addEventListener("keydown", onKey);
  stage.addEventListener("dragover", (event) => event.preventDefault());
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
  });
  byId("file").addEventListener("change", (event) => {
    if (event.target.files.length) openFile(event.target.files[0]);
    event.target.value = ""; // so that the same file can be opened again
  });
  byId("everything").addEventListener("click", () => doFind("everything"));
  byId("clear").addEventListener("click", () => remove("/regions", "Removed"));
  byId("forget").addEventListener("click", forget);
  byId("cancel").addEventListener("click", () => working && working.abort());
  byId("ask").addEventListener("submit", ask);
  byId("about").addEventListener("change", (event) => select(event.target.value ? Number(event.target.value) : null));
  for (const id of ["bundle", "other", "style"]) byId(id).addEventListener("change", redescribe);
  byId("live").addEventListener("change", followCamera);
  byId("frame").addEventListener("click", () =>
    act("Opening", (signal) => openWith(() => send("/api/camera", { method: "POST", signal }))),
  );
  new ResizeObserver(placeLabels).observe(stage);
}

function offer() {
  byId("bundle").replaceChildren(...offers.bundles.map((name) => new Option(name, name)));
  byId("other").replaceChildren(new Option("nothing", ""), ...offers.bundles.map((name) => new Option(name, name)));
  byId("style").replaceChildren(...offers.styles.map((name) => new Option(name, name)));
  byId("question").maxLength = offers.question_length;
  byId("samples").replaceChildren(
    ...offers.samples.map((name) => {
      const button = element("button", { type: "button", textContent: name });
      const path = `/api/samples/${encodeURIComponent(name)}`;
      button.addEventListener("click", () =>
        act("Opening", (signal) => openWith(() => send(path, { method: "POST", signal }))),
      );
      return button;
    }),
  );
  if (offers.camera) {
    byId("frame").textContent = `Take a frame of ${offers.camera}`;
    byId("frame").hidden = byId("live-label").hidden = false;
  }
  if (offers.unverified.length) {
    byId("unverified").textContent = `Never compared with its PyTorch model: ${offers.unverified.join(", ")}.`;
    byId("unverified").hidden = false;
  }
  byId("note").textContent =
    `Masks by ${offers.segmenter}. Images stay in the memory of this server and are dropped when it ends.`;
}

listen();
send("/api/offers").then(
  (found) => {
    offers = found;
    offer();
  },
  (error) => {
    byId("error").textContent = error.message;
    byId("error").hidden = false;
  },
);
