import { css, html, nothing, svg } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { command, jump, measure } from "../actions";
import { driftPath, figures, lowest } from "../drift";
import type { Cue, Drift, TakeDetail } from "../schema";
import { driftOf, embedderOf, lastSecond, steered, store } from "../store";
import { clock, parseTimecode, smpte } from "../timecode";
import { shared, styled, StudioElement } from "./base";
import "./drift-by";

const CLICK_PIXELS = 4;
/** Closer together, ticks would be a grey band. */
const MOST_TICKS = 200;
/** Measuring takes a while, so a take that is only passed by isn't measured. */
const MEASURE_AFTER_MS = 600;

/** A planned cue under the pointer: where it would be, and where the pointer came down. */
interface Dragged {
  id: string;
  seconds: number;
  from: number;
}

/** The whole take as a strip: blocks, drift, cues, the marked range and the playhead; beneath it the cues in words. */
export class StudioTimeline extends StudioElement {
  static override properties = { edited: { state: true }, dragged: { state: true } };
  /** The planned cue whose words are being changed. */
  declare edited: string | null;
  declare dragged: Dragged | null;
  protected watches = ["take", "frame", "markIn", "markOut", "studio", "embedder", "drifts"] as const;
  /** The planned cue that is to have the focus as soon as it is listed: in which part, and its second. */
  private focusNext: { part: string; seconds: number } | null = null;
  /** A cue is being moved, or was: in which part, and to which second. */
  private moved = { part: "", seconds: 0 };
  /** The cue that is being moved, by its id before, until the server has answered and lists it where it is now. */
  private moving: { id: string; answered: boolean } | null = null;
  /** Blocks by which arrow keys want the cue that is being moved to go on. */
  private queued = 0;
  private measuring?: ReturnType<typeof setTimeout>;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template: 4.9em auto minmax(0, 1fr) / minmax(0, 1fr);
        background: var(--panel);
        border-top: 1px solid var(--line);
        min-height: 0;
      }
      .lane {
        position: relative;
        margin: 0 0.7em;
      }
      .strip {
        position: absolute;
        inset: 0;
        cursor: pointer;
        touch-action: none;
      }
      .strip svg {
        position: absolute;
        inset: 0;
        width: 100%;
        height: 100%;
        overflow: visible;
      }
      .made {
        fill: #3a4048;
      }
      .range {
        fill: var(--focus);
        opacity: 0.28;
      }
      .pin {
        fill: var(--memory);
      }
      .exclude {
        fill: var(--live);
      }
      .curve {
        position: absolute;
        left: 0;
        top: 1.7em;
        width: 100%;
        height: 2.3em;
        pointer-events: none;
      }
      .curve path {
        fill: none;
        stroke: var(--text);
        stroke-width: 1.5;
        vector-effect: non-scaling-stroke;
      }
      .handle {
        position: absolute;
        top: 1.2em;
        height: 3.3em;
        width: 1.9em;
        margin-left: -0.95em;
        padding: 0;
        border: none;
        background: none;
        cursor: ew-resize;
        touch-action: none;
      }
      .handle:hover:not(:disabled) {
        background: none;
      }
      .handle::before {
        content: "";
        position: absolute;
        left: calc(50% - 0.45em);
        top: 0;
        border: 0.45em solid transparent;
        border-top: 0.6em solid var(--text);
        border-bottom: none;
      }
      .handle::after {
        content: "";
        position: absolute;
        left: calc(50% - 1px);
        top: 0;
        bottom: 0;
        border-left: 2px dashed var(--text);
      }
      .handle span {
        position: absolute;
        left: 50%;
        top: -1.25em;
        transform: translateX(-50%);
        padding: 0 0.3em;
        background: var(--text);
        color: var(--ground);
        border-radius: 2px;
        font-size: 0.85em;
        visibility: hidden;
      }
      .handle:is(:hover, :focus-visible, .dragged) span {
        visibility: visible;
      }
      .legend {
        display: flex;
        gap: 1.2em;
        align-items: center;
        flex-wrap: wrap;
        min-height: 1.9em;
        padding: 0 0.7em;
        white-space: nowrap;
      }
      .legend > .one-line {
        flex: 1;
        min-width: 0;
      }
      .tick {
        stroke: #1a1c1f;
      }
      .cue {
        stroke: var(--text);
        stroke-width: 2;
      }
      .cut {
        stroke: #ffffff;
        stroke-width: 5;
      }
      .shot {
        border: 1px solid var(--quiet);
        border-radius: 3px;
        padding: 0 0.4em;
        font-size: 0.85em;
      }
      text {
        fill: var(--quiet);
        font-size: 0.85em;
        font-variant-numeric: tabular-nums;
      }
      .asked {
        fill: #22252a;
      }
      .playhead {
        position: absolute;
        top: 0;
        bottom: 0;
        width: 2px;
        margin-left: -1px;
        background: var(--playhead);
        pointer-events: none;
      }
      .cues {
        overflow-y: auto;
        padding: 0.2em 0.7em;
      }
      li {
        display: flex;
        gap: 0.6em;
        align-items: center;
        min-height: 2em;
      }
      li button.time {
        border-color: transparent;
        background: none;
        padding: 0 0.3em;
        color: var(--text);
      }
      li.now .words {
        color: var(--playhead);
      }
      .words {
        flex: 1;
        text-align: left;
      }
      form {
        display: flex;
        flex: 1;
        gap: 0.4em;
      }
      form input:last-of-type {
        flex: 1;
      }
    `,
  ];

  constructor() {
    super();
    this.edited = null;
    this.dragged = null;
  }

  override render() {
    const { take, frame } = this.state;
    if (!take) return nothing;
    const cues = [{ number: 0, seconds: 0, prompt: take.prompt, cut: false, reached: true, planned_id: null }, ...take.cues];
    const now = frame / take.fps;
    const current = cues.filter((cue) => cue.reached && cue.seconds <= now + 1e-6).at(-1);
    return html`
      <div class="lane">
        <div
          class="strip"
          role="slider"
          tabindex="0"
          aria-label="Playhead"
          aria-valuemin="0"
          aria-valuemax=${Math.max(0, take.frames - 1)}
          aria-valuenow=${frame}
          aria-valuetext=${smpte(frame, take.fps)}
          @pointerdown=${this.grab}
          @pointermove=${this.drag}
        >
          ${this.strip(take)}
        </div>
        ${this.curve(take)}
        <div class="playhead" ${styled({ left: `${(100 * now) / lastSecond(take)}%` })}></div>
        ${repeat(
          take.cues.filter((cue) => cue.planned_id),
          (cue) => cue.planned_id,
          (cue) => this.handle(cue, take),
        )}
      </div>
      ${this.legend(take)}
      <ul class="cues" role="list" aria-label="Cues">
        ${repeat(
          cues,
          (cue) => cue.planned_id ?? cue.seconds,
          (cue) => html`<li class=${cue === current ? "now" : ""}>${this.cue(cue, take)}</li>`,
        )}
      </ul>
    `;
  }

  private strip(take: TakeDetail) {
    const { markIn, markOut } = this.state;
    const end = lastSecond(take);
    const percent = (seconds: number) => `${(100 * seconds) / end}%`;
    const from = markIn ?? 0;
    const to = (markOut ?? take.frames - 1) + 1;
    const every = [1, 2, 5, 10, 30, 60, 120, 300].find((step) => end / step <= 12) ?? 600;
    const labels = Array.from({ length: Math.floor(end / every) + 1 }, (_, index) => index * every);
    const nth = Math.ceil(take.segments.length / MOST_TICKS);
    const ticks = take.segments.filter((segment) => segment.block % nth === 0);
    return html`<svg aria-hidden="true">
      ${labels.map((at) => svg`<text x=${percent(at)} y="1em" text-anchor=${at === 0 ? "start" : at > end * 0.97 ? "end" : "middle"}>${clock(at).slice(0, -2)}</text>`)}
      <rect class="asked" x="0" y="1.6em" width="100%" height="2.5em"></rect>
      <rect class="made" x="0" y="1.6em" width=${percent(take.made_seconds)} height="2.5em"></rect>
      ${ticks.map((segment) => svg`<line class="tick" x1=${percent(segment.seconds)} x2=${percent(segment.seconds)} y1="1.6em" y2="4.1em"></line>`)}
      ${(["pin", "exclude"] as const).map((how) =>
        steered(take, how).map(
          ([from, to]) => svg`<rect class=${how} x=${percent(from)} width=${percent(Math.max(to - from, end / 300))} y="4.25em" height="0.3em"></rect>`,
        ),
      )}
      ${
        markIn === null && markOut === null
          ? nothing
          : svg`<rect class="range" x=${percent(from / take.fps)} width=${percent((to - from) / take.fps)} y="1.5em" height="2.6em"></rect>`
      }
      ${take.cues
        .filter((cue) => !cue.planned_id)
        .map((cue) => svg`<line class=${cue.cut ? "cue cut" : "cue"} x1=${percent(cue.seconds)} x2=${percent(cue.seconds)} y1="1.3em" y2="4.4em"></line>`)}
    </svg>`;
  }

  private curve(take: TakeDetail) {
    const drift = driftOf(take, this.state);
    if (!drift || typeof drift === "string") return nothing;
    const name = `Drift curve by ${drift.embedder}: likeness to the first second, from ${lowest([drift]).toFixed(2)} to 1`;
    return html`<svg class="curve" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label=${name}>
      <path d=${driftPath(drift, lastSecond(take), lowest([drift]))}></path>
    </svg>`;
  }

  /** What judges drift, and its figures or why there are none. */
  private legend(take: TakeDetail) {
    if (!embedderOf(take, this.state)) return html`<div class="legend"></div>`;
    const drift = driftOf(take, this.state);
    const isMade = take.status !== "live" && take.status !== "running";
    const measured = (found: Drift) => html`<span class="time">${figures(found)}</span>
      <span class="quiet">scale ${lowest([found]).toFixed(2)} – 1${found.independent ? "" : " · no independent judge"}</span>`;
    return html`<div class="legend">
      <drift-by></drift-by>
      ${drift === undefined || typeof drift === "string"
        ? html`<span class="quiet one-line" title=${drift ?? nothing}>${isMade ? (drift ?? "") : "measured when the take is made"}</span>`
        : measured(drift)}
    </div>`;
  }

  protected override willUpdate(): void {
    const { moving } = this;
    if (moving?.answered && !this.state.take?.cues.some((cue) => cue.planned_id === moving.id)) this.settle();
  }

  /** Ends the move of a cue; another one may be under the pointer by now. */
  private settle(): void {
    if (this.dragged?.id === this.moving?.id) this.dragged = null;
    this.moving = null;
  }

  protected override updated(): void {
    const { take } = this.state;
    if (take && driftOf(take, this.state) === undefined && !this.measuring) {
      this.measuring = setTimeout(() => {
        this.measuring = undefined;
        if (this.state.take) void measure(this.state.take);
      }, MEASURE_AFTER_MS);
    }
    if (take && this.focusNext) this.focusCue(take, this.focusNext);
    if (!take || !this.queued || this.moving) return;
    const cue = take.cues.find((each) => each.planned_id && isAt(each, this.moved.seconds));
    if (cue) void this.moveCue(cue, take, this.free(cue, take, this.queued), this.moved.part);
  }

  /** In the same step in which a moved cue is listed, since to the server it is another one than before. */
  private focusCue(take: TakeDetail, { part, seconds }: { part: string; seconds: number }): void {
    const cue = take.cues.find((each) => each.planned_id && isAt(each, seconds));
    const there = cue && this.renderRoot.querySelector<HTMLElement>(`.${part}[data-id="${cue.planned_id}"]`);
    if (!there) return;
    this.focusNext = null;
    there.focus();
  }

  /** A planned cue on the strip. */
  private handle(cue: Cue, take: TakeDetail) {
    const id = cue.planned_id!;
    const dragged = this.dragged?.id === id;
    const seconds = dragged ? this.dragged!.seconds : cue.seconds;
    return html`<button
      class=${dragged ? "handle dragged" : "handle"}
      data-id=${id}
      aria-label="Planned ${cue.cut ? "cut" : "cue"} at ${clock(seconds)}: ${cue.prompt}"
      title="${cue.prompt} — drag it, or ← → by a block; Enter edits, Delete withdraws"
      ${styled({ left: `${(100 * seconds) / lastSecond(take)}%` })}
      @keydown=${(event: KeyboardEvent) => this.cueKey(event, cue, take, "handle")}
      @pointerdown=${(event: PointerEvent) => this.grabCue(event, cue)}
      @pointermove=${(event: PointerEvent) => this.dragCue(event, cue, take)}
      @pointerup=${() => this.dropCue(cue, take)}
      @pointercancel=${() => (this.dragged = null)}
    >
      <span class="time">${clock(seconds)}</span>
    </button>`;
  }

  private grabCue(event: PointerEvent, cue: Cue): void {
    if (event.button) return;
    (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
    this.dragged = { id: cue.planned_id!, seconds: cue.seconds, from: event.clientX };
  }

  /** Cues take over where a block begins, so a cue goes from block to block. */
  private dragCue(event: PointerEvent, cue: Cue, take: TakeDetail): void {
    if (this.dragged?.id !== cue.planned_id) return;
    const { width } = this.renderRoot.querySelector(".lane")!.getBoundingClientRect();
    const pixels = event.clientX - this.dragged!.from;
    const blocks = Math.abs(pixels) < CLICK_PIXELS ? 0 : Math.round(((pixels / width) * lastSecond(take)) / this.blockSeconds(take));
    this.dragged = { ...this.dragged!, seconds: cue.seconds + blocks * this.blockSeconds(take) };
  }

  private async dropCue(cue: Cue, take: TakeDetail): Promise<void> {
    const { dragged } = this;
    if (dragged?.id !== cue.planned_id) return;
    if (dragged!.seconds !== cue.seconds) return this.moveCue(cue, take, dragged!.seconds, "handle");
    this.dragged = null;
    this.edit(cue);
  }

  private cueKey(event: KeyboardEvent, cue: Cue, take: TakeDetail, part: string): void {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (direction && this.moving) this.queued += direction;
    else if (direction) void this.moveCue(cue, take, this.free(cue, take, direction), part);
    else if (event.key === "Enter") this.edit(cue);
    else if (event.key === "Delete") void this.withdraw(cue);
    else if (event.key === "Escape" && this.dragged) this.dragged = null;
    else return;
    event.preventDefault();
  }

  /** So many blocks before or after a cue, or where the next one without another cue is. */
  private free(cue: Cue, take: TakeDetail, blocks: number): number {
    let seconds = cue.seconds + (blocks - Math.sign(blocks)) * this.blockSeconds(take);
    do seconds += Math.sign(blocks) * this.blockSeconds(take);
    while (take.cues.some((other) => isAt(other, seconds)));
    return seconds;
  }

  private async moveCue(cue: Cue, take: TakeDetail, seconds: number, part: string): Promise<void> {
    const taken = take.cues.find((other) => other !== cue && isAt(other, seconds));
    if (taken || this.moving) this.dragged = null;
    if (taken) return store.alert(`“${taken.prompt}” takes over at ${clock(seconds)}; move this cue elsewhere`);
    if (this.moving) return;
    this.moving = { id: cue.planned_id!, answered: false };
    this.queued = 0;
    const at = Math.max(0, seconds);
    this.moved = { part, seconds: at };
    this.focusNext = this.moved;
    const answer = await command({ do: "edit_cue", planned_id: cue.planned_id!, prompt: cue.prompt, at });
    if (!answer) {
      this.queued = 0;
      return this.settle();
    }
    if (answer.planned_id === cue.planned_id) this.settle();
    else this.moving.answered = true;
    this.moved.seconds = answer.takes_over_at ?? at;
    store.update({ note: `“${cue.prompt}” takes over at ${clock(this.moved.seconds)}` });
    this.requestUpdate();
  }

  private focusOn(part: string, seconds: number): void {
    this.focusNext = { part, seconds };
    this.requestUpdate();
  }

  private edit(cue: Cue): void {
    this.edited = cue.planned_id;
    void this.updateComplete.then(() => this.renderRoot.querySelector<HTMLInputElement>("form [name=prompt]")?.focus());
  }

  private async withdraw(cue: Cue): Promise<void> {
    const answer = await command({ do: "withdraw_cue", planned_id: cue.planned_id! });
    if (!answer) return;
    store.update({ note: `“${cue.prompt}” is withdrawn` });
    this.renderRoot.querySelector<HTMLElement>(".strip")?.focus();
  }

  private blockSeconds(take: TakeDetail): number {
    const backbone = this.state.studio?.backbones.find((each) => each.name === take.backbone);
    return backbone?.seconds_a_block ?? (take.segments[1] ?? take.segments[0]).frames / take.fps;
  }

  private cue(cue: Cue, take: TakeDetail) {
    if (cue.planned_id && cue.planned_id === this.edited) return this.cueForm(cue, take);
    const planned = cue.planned_id !== null;
    return html`
      <button
        class="time"
        data-id=${cue.planned_id ?? nothing}
        title=${planned ? "← → move it by a block; Enter edits, Delete withdraws" : "Go there"}
        @click=${() => (planned ? this.edit(cue) : jump(Math.ceil(cue.seconds * take.fps - 1e-6)))}
        @keydown=${(event: KeyboardEvent) => planned && this.cueKey(event, cue, take, "time")}
        ?disabled=${!cue.reached && !planned}
      >
        ${clock(cue.seconds)}
      </button>
      ${cue.cut ? html`<span class="shot">cut</span>` : nothing}
      <bdi class="words one-line">${cue.prompt}</bdi>
      ${cue.planned_id
        ? html`<button @click=${() => this.edit(cue)}>Edit</button>
            <button @click=${() => this.withdraw(cue)}>Withdraw</button>`
        : nothing}
    `;
  }

  private cueForm(cue: Cue, take: TakeDetail) {
    return html`<form
      @submit=${(event: SubmitEvent) => this.saveCue(event, cue, take)}
      @keydown=${(event: KeyboardEvent) => event.key === "Escape" && this.leaveForm(cue)}
    >
      <input name="at" size="7" aria-label="Timecode of the cue" .value=${clock(cue.seconds)} />
      <label><input type="checkbox" name="cut" .checked=${cue.cut} /> Cut</label>
      <input name="prompt" aria-label="Words of the cue" dir="auto" .value=${cue.prompt} />
      <button class="primary">Save</button>
      <button type="button" @click=${() => this.leaveForm(cue)}>Cancel</button>
    </form>`;
  }

  private async saveCue(event: SubmitEvent, cue: Cue, take: TakeDetail): Promise<void> {
    event.preventDefault();
    const fields = new FormData(event.target as HTMLFormElement);
    const written = String(fields.get("at"));
    const at = parseTimecode(written, take.fps);
    if (at === null) return store.alert(`“${written}” is not a timecode; write 12.5, 0:12.5 or 00:00:12:08`);
    const prompt = String(fields.get("prompt"));
    const answer = await command({ do: "edit_cue", planned_id: cue.planned_id!, prompt, at, cut: fields.has("cut") });
    if (!answer) return;
    this.edited = null;
    this.focusOn("time", answer.takes_over_at ?? at);
  }

  private leaveForm(cue: Cue): void {
    this.edited = null;
    this.focusOn("time", cue.seconds);
  }

  private grab(event: PointerEvent): void {
    if (event.button) return;
    (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
    store.update({ rate: 0 });
    this.moveTo(event);
  }

  private drag(event: PointerEvent): void {
    if ((event.currentTarget as HTMLElement).hasPointerCapture(event.pointerId)) this.moveTo(event);
  }

  private moveTo(event: PointerEvent): void {
    const { take } = this.state;
    const { left, width } = (event.currentTarget as HTMLElement).getBoundingClientRect();
    if (take) jump(Math.floor(((event.clientX - left) / width) * lastSecond(take) * take.fps));
  }
}

function isAt(cue: Cue, seconds: number): boolean {
  return Math.abs(cue.seconds - seconds) < 1e-3;
}

customElements.define("studio-timeline", StudioTimeline);
