/** What the director does; each tells the server, and shows a refusal as an alert. */

import { api, Refusal } from "./api";
import type { Answer, Command, Drift, Exported, NewTake, Span, StudioEvent, Take } from "./schema";
import { driftKey, driftOf, embedderOf, markedRange, segmentAt, store, type Named } from "./store";
import { clock } from "./timecode";

export const DEMO: NewTake = {
  prompt: "a blue square stands in a desert",
  seconds: 30,
  seed: "1",
  backbone: "tiny-world",
  memory: null,
  start_image: null,
  remember: [],
  settings: {},
  cues: [
    { seconds: 8, prompt: "a blue square leaves in a desert" },
    { seconds: 20, prompt: "a blue square returns in a desert" },
  ],
};

/** What fields of commands are called here; a message begins with the name that the server has for them. */
const LABELS: Record<string, string> = { at: "“Takes over at”" };

function inWords(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const field = (error instanceof Refusal && error.fields[0]?.field) || "";
  const label = LABELS[field];
  return label && error.message.startsWith(`${field} `) ? label + error.message.slice(field.length) : error.message;
}

/** Runs something that the server may refuse; null after a refusal. */
async function trying<T>(work: () => Promise<T>, about?: string): Promise<T | null> {
  if (about) store.triedAgain(about);
  try {
    return await work();
  } catch (error) {
    store.alert(inWords(error), { about });
    return null;
  }
}

export async function enter(): Promise<void> {
  await trying(async () => {
    await api.signIn();
    const [studio, { takes, left_out }] = await Promise.all([api.studio(), api.takes("")]);
    store.update({ studio, takes, leftOut: left_out });
    api.listen(
      (event) => {
        if (event.type === "cut") api.forgetPictures(event.take);
        if (isAfterGap(event)) void readAgain();
        else store.receive(event);
      },
      (connected, why) => void reconnected(connected, why),
    );
    const last = lastOpen();
    if (last) store.update({ pace: last.pace });
    const same = takes.find((take) => take.name === last?.name);
    const first = same ?? takes.find((take) => take.id === studio.live) ?? takes[0];
    if (first) await openTake(first.id, same ? last!.frame : 0);
  });
}

const OPEN_KEY = "studio-open";

/** Keeps for a reload what is open; by its name, since ids are new after the server was started again. */
export function keepOpen(): void {
  const { take, frame, pace } = store.state;
  if (take) sessionStorage.setItem(OPEN_KEY, JSON.stringify({ name: take.name, frame, pace }));
}

function lastOpen(): { name: string; frame: number; pace: number | null } | null {
  return JSON.parse(sessionStorage.getItem(OPEN_KEY) ?? "null");
}

/** A block of the open take whose one before was said while the take was being opened. */
function isAfterGap(event: StudioEvent): boolean {
  const { take } = store.state;
  return event.type === "block" && event.take === take?.id && event.segment.block > take.segments.length;
}

/** Why there is no connection, as the alert says it. */
let offline = "";

/** After a break, events may have been missed: reads again what is open, and the library. */
async function reconnected(connected: boolean, why: string): Promise<void> {
  if (why !== offline) {
    store.withdraw(offline);
    if (why) store.alert(why);
    offline = why;
  }
  store.update({ connected });
  if (!connected) return;
  const { take, search } = store.state;
  if (take) api.tell({ type: "watch", take: take.id });
  await readAgain();
  const listed = await trying(() => api.takes(""));
  if (listed) store.update({ takes: listed.takes, leftOut: listed.left_out });
  if (search) await searchTakes(search);
}

/** Reads the open take anew; the server says by itself when it is gone. */
export async function readAgain(): Promise<void> {
  const { take } = store.state;
  const detail = take && (await api.take(take.id).catch(() => null));
  if (!detail || store.state.take?.id !== detail.id) return;
  // What was said since the server answered must not be lost.
  if (store.state.take !== take) return readAgain();
  store.update({ take: detail });
}

export async function searchTakes(search: string): Promise<void> {
  store.update({ search });
  const listed = HAS_WORDS.test(search) ? await trying(() => api.takes(search)) : { takes: [] };
  if (!listed || store.state.search !== search) return;
  const found = listed.takes;
  store.update({ matches: search.trim() ? found.map((take) => take.id) : null });
}

const HAS_WORDS = /[\p{L}\p{N}]/u;

/** Lists moments that look like the frame under the playhead. */
export async function findFrame(): Promise<void> {
  const { take, frame } = store.state;
  const hits = take && (await trying(() => api.like(take.id, frame)));
  if (take && hits) store.update({ found: { take: take.name, seconds: frame / take.fps, hits } });
}

let opened = 0;

/** Opens a take, unless another one was asked for meanwhile. */
export async function openTake(id: string, frame = 0, plays = true): Promise<void> {
  await trying(async () => {
    const asked = ++opened;
    const take = await api.take(id);
    if (asked !== opened) return;
    const { jumps } = store.state;
    const rate = plays && take.status === "live" && !take.waiting ? 1 : 0;
    store.update({ take, frame, rate, jumps: jumps + 1, stats: null, following: false, markIn: null, markOut: null });
    api.tell({ type: "watch", take: id });
  });
}

/** Opens a take from a list, where the open one stays as it is. */
export function chooseTake(id: string): void {
  if (store.state.take?.id !== id) void openTake(id);
}

export async function begin(take: NewTake): Promise<string> {
  const { id } = await api.begin(take);
  await openMade(id);
  store.update({ dialog: null });
  return id;
}

/** Opens a take that this window has set going, at the pace that is chosen here. */
async function openMade(id: string, frame = 0): Promise<void> {
  await openTake(id, frame);
  await setPace(store.state.pace);
}

export async function setPace(pace: number | null): Promise<void> {
  store.update({ pace });
  if (store.state.take?.status === "live") await command({ do: "pace", blocks_ahead: pace });
}

export async function beginDemo(): Promise<void> {
  store.update({ busy: true });
  const id = await trying(() => begin(DEMO));
  store.update({ guided: id, busy: false });
}

// Playhead

export function jump(frame: number): void {
  const { take, jumps } = store.state;
  if (!take) return;
  const there = Math.max(0, Math.min(Math.round(frame), take.frames - 1));
  store.update({ frame: there, jumps: jumps + 1, following: false });
}

/** Pauses on another frame. */
export function step(frames: number): void {
  store.update({ rate: 0 });
  jump(store.state.frame + frames);
}

export function setRate(rate: number): void {
  const { take, frame } = store.state;
  if (!take) return;
  const ended = rate > 0 && frame >= take.frames - 1 && take.status !== "live";
  if (ended) jump(0);
  store.update({ rate });
}

export const togglePlay = () => setRate(store.state.rate ? 0 : 1);

/** To the newest frame; a take that is being made is followed from there. */
export function goToEnd(): void {
  const { take } = store.state;
  if (!take) return;
  jump(take.frames - 1);
  store.update({ following: take.status === "live" });
}

export function mark(which: "markIn" | "markOut"): void {
  const { frame, markIn, markOut } = store.state;
  store.update({ [which]: frame });
  if (which === "markIn" && markOut !== null && markOut < frame) store.update({ markOut: null });
  if (which === "markOut" && markIn !== null && markIn > frame) store.update({ markIn: null });
}

export function clearMarks(): void {
  store.update({ markIn: null, markOut: null });
}

// Commands on the open take

export async function command(order: Command): Promise<Answer | null> {
  const { take } = store.state;
  return take && trying(() => orderOrOffer(take, order), order.do);
}

/** A command; where another window directs, null, and an offer to direct from here. */
async function orderOrOffer(take: Named, order: Command): Promise<Answer | null> {
  try {
    return await api.command(take.id, order);
  } catch (error) {
    if (!isDirectedElsewhere(error)) throw error;
    const message = error.message.charAt(0).toUpperCase() + error.message.slice(1);
    store.alert(message, { remedy: { name: "Direct from here", run: () => void takeOver(take, message) } });
    return null;
  }
}

export function isDirectedElsewhere(error: unknown): error is Refusal {
  return error instanceof Refusal && error.status === 409 && error.message.includes("another window");
}

export async function takeOver(take: Named, refused = ""): Promise<void> {
  const answer = await trying(() => api.command(take.id, { do: "take_over" }));
  if (!answer) return;
  store.withdraw(refused);
  store.update({ note: "This window directs now" });
}

/** A command whose answer is the take that goes on; false after a refusal. */
export async function goOnWith(order: Command): Promise<boolean> {
  const { take, frame } = store.state;
  const start = startOf(order);
  store.update({ busy: true });
  const answer = await command(order);
  if (answer?.id) await openMade(answer.id, answer.id === take?.id ? frame : start);
  store.update({ busy: false });
  return answer !== null;
}

function startOf(order: Command): number {
  const { take, frame } = store.state;
  return "block" in order ? (take?.segments[order.block]?.first_frame ?? frame) - 1 : 0;
}

/** The block under the playhead. */
export function currentBlock(): number {
  const { take, frame } = store.state;
  return (take && segmentAt(take.segments, frame)?.block) ?? 0;
}

export type Steer = "pin" | "unpin" | "exclude" | "unexclude";

export async function steer(how: Steer, [from, to]: Span): Promise<void> {
  await command({ do: how, from, to });
}

/** Lets another policy choose from the next block on. */
export async function choosePolicy(name: string): Promise<void> {
  const answer = await command({ do: "policy", name });
  if (answer) store.update({ note: `${name} chooses from ${clock(answer.takes_over_at!)} on` });
}

/** Measures the drift of a take that is made, once. */
export async function measure(take: Take): Promise<void> {
  const embedder = embedderOf(take, store.state);
  const isMade = take.status !== "live" && take.status !== "running";
  if (!embedder || !isMade || !take.frames || driftOf(take, store.state) !== undefined) return;
  const key = driftKey(take, embedder.name);
  const keep = (drift: Drift | string) => store.update({ drifts: { ...store.state.drifts, [key]: drift } });
  keep("is being measured");
  await api.drift(take.id, embedder.name).then(keep, (error: Error) => keep(error.message));
}

/** Asks first, in a dialog. */
export function askToDelete(take: Named): void {
  store.update({ deleting: take, dialog: "delete" });
}

export async function deleteTake(take: Named): Promise<void> {
  await trying(() => orderOrOffer(take, { do: "delete" }), "delete");
}

export async function addTwin(): Promise<void> {
  const answer = await command({ do: "native_twin" });
  if (answer?.id) store.update({ compared: [...(store.state.compared ?? []), answer.id] });
}

export async function download(what: Exported): Promise<void> {
  const { take } = store.state;
  if (!take) return;
  const [from, to] = markedRange(store.state);
  const exported = await trying(() => api.exported(take.id, what, from, to));
  if (!exported) return;
  save(exported.file, exported.name);
  store.update({ note: `Exported ${exported.name}` });
}

/** Hands a file to the browser's downloads. */
export function save(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export async function copy(text: string, what: string): Promise<void> {
  const done = await trying(() => navigator.clipboard.writeText(text));
  if (done !== null) store.update({ note: `Copied as ${what}` });
}
