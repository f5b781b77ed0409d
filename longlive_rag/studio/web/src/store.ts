import type { Cue, Drift, Embedder, FrameHit, LeftOut, Segment, Span, Stats, Studio, StudioEvent, Take, TakeDetail } from "./schema";

export interface Alert {
  number: number;
  message: string;
  /** What was tried; the next try takes the alert away. */
  about?: string;
  /** What can be done about it, by a button. */
  remedy?: Remedy;
}

/** A take, whether it can be opened or not. */
export type Named = Pick<Take, "id" | "name">;

export interface Remedy {
  name: string;
  run: () => void;
}

/** Everything that the page shows; elements read it and never keep copies. */
export interface State {
  /** Null: not yet. */
  connected: boolean | null;
  studio: Studio | null;
  /** All takes, newest first. */
  takes: Take[];
  /** Those that can't be opened. */
  leftOut: LeftOut[];
  search: string;
  /** Those that have the words of `search`, by id and best first; null: there is no search. */
  matches: string[] | null;
  /** Moments that look like a frame, in place of the library. */
  found: { take: string; seconds: number; hits: FrameHit[] } | null;
  /** The take that is open. */
  take: TakeDetail | null;
  /** Of its newest block, while it is made. */
  stats: Stats | null;
  /** The playhead. */
  frame: number;
  /** Changes when the playhead jumps, in contrast to playing on. */
  jumps: number;
  /** 0: paused; negative: backwards. */
  rate: number;
  /** The playhead stays at the newest block. */
  following: boolean;
  /** A command is under way after which another take may be the open one. */
  busy: boolean;
  /** How many blocks making may be ahead of the playhead; null: as fast as it can. */
  pace: number | null;
  markIn: number | null;
  markOut: number | null;
  dialog: "new" | "help" | "runs" | "delete" | null;
  /** The take that the dialog "delete" is about. */
  deleting: Named | null;
  /** Takes that are laid beside the open one; null: not comparing. */
  compared: string[] | null;
  /** What drift is judged by; null: what suits the take. */
  embedder: string | null;
  /** By driftKey; a sentence says why there is none. */
  drifts: Record<string, Drift | string>;
  alerts: Alert[];
  /** The last thing that happened, in one quiet line. */
  note: string;
  /** The demo take of the guided first minute. */
  guided: string | null;
}

const ORACLE = "tiny-world";

type Listener = (changed: ReadonlySet<keyof State>) => void;

export class Store {
  state: State = {
    connected: null,
    studio: null,
    takes: [],
    leftOut: [],
    search: "",
    matches: null,
    found: null,
    take: null,
    stats: null,
    frame: 0,
    jumps: 0,
    rate: 0,
    following: false,
    busy: false,
    pace: 1,
    markIn: null,
    markOut: null,
    dialog: null,
    deleting: null,
    compared: null,
    embedder: null,
    drifts: {},
    alerts: [],
    note: "",
    guided: null,
  };
  private listeners = new Set<Listener>();
  private alertsSoFar = 0;

  update(patch: Partial<State>): void {
    const keys = Object.keys(patch) as (keyof State)[];
    const changed = new Set(keys.filter((key) => patch[key] !== this.state[key]));
    if (!changed.size) return;
    this.state = { ...this.state, ...patch };
    for (const listener of [...this.listeners]) listener(changed);
  }

  /** Calls the listener after each change; the answer ends that. */
  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  alert(message: string, { remedy, about }: Pick<Alert, "remedy" | "about"> = {}): void {
    this.withdraw(message);
    if (about) this.triedAgain(about);
    this.update({ alerts: [...this.state.alerts, { number: this.alertsSoFar++, message, remedy, about }] });
  }

  /** What was said of the last try doesn't matter any more. */
  triedAgain(about: string): void {
    this.update({ alerts: this.state.alerts.filter((alert) => alert.about !== about) });
  }

  /** It is right again. */
  withdraw(message: string): void {
    this.update({ alerts: this.state.alerts.filter((alert) => alert.message !== message) });
  }

  dismiss(number: number): void {
    this.update({ alerts: this.state.alerts.filter((alert) => alert.number !== number) });
  }

  /** Takes over what the server says. */
  receive(event: StudioEvent): void {
    const { take, studio } = this.state;
    const open = take && "take" in event && event.take === take.id ? take : null;
    switch (event.type) {
      case "hello":
        if (studio) this.update({ studio: { ...studio, live: event.live } });
        break;
      case "block":
        if (open) this.receiveBlock(open, event);
        break;
      case "cut":
        if (open) this.update({ take: cutAt(open, event.blocks) });
        break;
      case "take":
        this.receiveFacts(event.take);
        break;
      case "left_out":
        this.receiveLeftOut(event.take);
        break;
      case "gone":
        this.receiveGone(event.take, event.deleted);
        break;
      case "cues":
        if (open) this.update({ take: { ...open, cues: event.cues } });
        break;
      case "steering":
        if (open) this.update({ take: { ...open, steering: event.steering } });
        break;
      case "note":
        this.update({ note: event.message });
        break;
      case "error":
        this.alert(event.message);
    }
  }

  private receiveLeftOut(leftOut: LeftOut): void {
    const others = <T extends { id: string }>(all: T[]) => all.filter(({ id }) => id !== leftOut.id);
    this.update({ takes: others(this.state.takes), leftOut: [...others(this.state.leftOut), leftOut] });
  }

  private receiveGone(id: string, deleted: boolean): void {
    const { take, takes, leftOut, compared } = this.state;
    this.update({
      takes: takes.filter((other) => other.id !== id),
      leftOut: leftOut.filter((other) => other.id !== id),
      compared: compared?.filter((other) => other !== id) ?? null,
    });
    const name = [...takes, ...leftOut].find((other) => other.id === id)?.name;
    if (deleted && name) this.update({ note: `${name} was deleted` });
    if (take?.id !== id) return;
    this.update({ take: null, frame: 0, rate: 0, stats: null, compared: null, markIn: null, markOut: null });
    if (!deleted) this.alert(`${take.name} is not on the disk any more`);
  }

  private receiveBlock(open: TakeDetail, event: Extract<StudioEvent, { type: "block" }>): void {
    const take = withBlock(open, event);
    const { frames, blocks, made_seconds } = take;
    const listed = this.state.takes.map((other) => (other.id === take.id ? { ...other, frames, blocks, made_seconds } : other));
    this.update({ take, takes: listed, stats: event.stats });
  }

  private receiveFacts(facts: Take): void {
    const { take, takes, leftOut } = this.state;
    const known = takes.some((other) => other.id === facts.id);
    this.update({
      takes: known ? takes.map((other) => (other.id === facts.id ? facts : other)) : [facts, ...takes],
      leftOut: leftOut.filter((other) => other.id !== facts.id),
    });
    if (take?.id === facts.id) this.receiveFactsOfOpen(take, facts);
  }

  private receiveFactsOfOpen(take: TakeDetail, facts: Take): void {
    const { frame, rate, following } = this.state;
    // Frames and blocks follow the segments that have arrived; the facts may be ahead of them.
    const { frames, blocks, made_seconds } = take;
    const live = facts.status === "live";
    // Without anyone who makes it, nothing that is planned can be changed.
    const cues = live ? take.cues : take.cues.map((cue) => ({ ...cue, planned_id: null }));
    const begins = take.waiting && !facts.waiting && live;
    // Its last frame may be on the screen already, and none comes after it.
    const ends = !live && rate > 0 && frame >= frames - 1;
    this.update({
      take: { ...take, ...facts, cues, frames, blocks, made_seconds },
      rate: begins ? 1 : ends ? 0 : rate,
      following: following && live,
    });
  }
}

function withBlock(take: TakeDetail, event: Extract<StudioEvent, { type: "block" }>): TakeDetail {
  const before = cutAt(take, event.segment.block);
  const memory = event.memory ? [...before.memory, event.memory] : before.memory;
  return withSegments({ ...before, memory }, [...before.segments, event.segment]);
}

function cutAt(take: TakeDetail, blocks: number): TakeDetail {
  const memory = take.memory.filter((entry) => entry.block < blocks);
  return withSegments(
    { ...take, memory },
    take.segments.filter((segment) => segment.block < blocks),
  );
}

function withSegments(take: TakeDetail, segments: Segment[]): TakeDetail {
  const last = segments.at(-1);
  const frames = last ? last.first_frame + last.frames : 0;
  return { ...take, segments, frames, blocks: segments.length, made_seconds: frames / take.fps };
}

/** What the library lists: all takes, or those that match the search. */
export function listed({ takes, matches }: State): Take[] {
  const found = matches?.map((id) => takes.find((take) => take.id === id));
  return found?.filter((take) => take !== undefined) ?? takes;
}

/** The segment that holds a frame, or the last one before it. */
export function segmentAt(segments: Segment[], frame: number): Segment | undefined {
  let low = 0;
  let high = segments.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle].first_frame <= frame) low = middle + 1;
    else high = middle;
  }
  return segments[Math.max(0, low - 1)];
}

/** The first block that begins at a moment or later, as for cues; the number of blocks where there is none. */
export function blockFrom(take: TakeDetail, seconds: number): number {
  const frame = seconds * take.fps - 1e-6;
  const block = take.segments.findIndex((segment) => segment.first_frame >= frame);
  return block < 0 ? take.blocks : Math.max(1, block);
}

/** Where the timeline ends: what is asked for, or more, once more is made. */
export function lastSecond(take: Take): number {
  return Math.max(take.seconds, take.made_seconds, 1 / take.fps);
}

/** The prompt that is in force at a moment. */
export function promptAt(take: Take & { cues: Cue[] }, seconds: number): string {
  const past = take.cues.filter((cue) => cue.reached && cue.seconds <= seconds);
  return past.sort((a, b) => a.seconds - b.seconds).at(-1)?.prompt ?? take.prompt;
}

/** The spans that memory is told to bring back, or not to, as it stands. */
export function steered(take: TakeDetail, verb: "pin" | "exclude"): Span[] {
  let spans: Span[] = [];
  for (const order of take.steering) {
    const others = spans.filter(([from, to]) => from !== order.start || to !== order.end);
    if (order.verb === verb) spans = [...others, [order.start, order.end]];
    if (order.verb === `un${verb}`) spans = others;
  }
  return spans;
}

/** The policy that chooses from a moment on. */
export function policyAt(take: TakeDetail, seconds: number): string {
  const told = take.steering.findLast((order) => order.verb === "policy" && order.seconds <= seconds);
  const memory = take.request.memory as { policy?: string } | undefined;
  return told?.policy ?? memory?.policy ?? "";
}

export function remembers(take: TakeDetail): boolean {
  return (take.request.memory as { enabled?: boolean } | undefined)?.enabled !== false;
}

/** The judges that suit a take: the oracle of the drawn world knows nothing else. */
export function embeddersOf(take: Take, studio: Studio | null): Embedder[] {
  const all = studio?.embedders ?? [];
  return take.backbone === ORACLE ? all : all.filter(({ name }) => name !== ORACLE);
}

/** The judge that is chosen, or the best one at hand. */
export function embedderOf(take: Take, { studio, embedder }: State): Embedder | undefined {
  const all = embeddersOf(take, studio);
  const best = [all.find(({ name }) => name === ORACLE), all.find(({ independent }) => independent), all[0]];
  return all.find(({ name }) => name === embedder) ?? best.find((each) => each);
}

export function driftKey(take: Take, embedder: string): string {
  return `${take.id}/${take.frames}/${embedder}`;
}

/** Drift of a take; a sentence where there is none; undefined where it isn't measured yet. */
export function driftOf(take: Take, state: State): Drift | string | undefined {
  const embedder = embedderOf(take, state);
  return embedder && state.drifts[driftKey(take, embedder.name)];
}

/** The marked range, in seconds; without marks the whole take. */
export function markedRange(state: State): Span {
  const take = state.take!;
  const from = state.markIn ?? 0;
  const to = state.markOut ?? take.frames - 1;
  return [from / take.fps, (to + 1) / take.fps];
}

export const store = new Store();
