import { css, html, nothing, svg } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { command, jump } from "../actions";
import type { Cue, TakeDetail } from "../schema";
import { lastSecond, store } from "../store";
import { clock, parseTimecode, smpte } from "../timecode";
import { shared, styled, StudioElement } from "./base";

/** The whole take as a strip: blocks, cues, the marked range and the playhead; beneath it the cues in words. */
export class StudioTimeline extends StudioElement {
  static override properties = { edited: { state: true } };
  /** The planned cue whose words are being changed. */
  declare edited: string | null;
  protected watches = ["take", "frame", "markIn", "markOut"] as const;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template-rows: 3.6em minmax(0, 1fr);
        background: var(--panel);
        border-top: 1px solid var(--line);
        min-height: 0;
      }
      .strip {
        position: relative;
        margin: 0 0.7em;
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
      .tick {
        stroke: #1a1c1f;
      }
      .cue {
        stroke: var(--text);
        stroke-width: 2;
      }
      .planned {
        stroke-dasharray: 3 3;
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
  }

  override render() {
    const { take, frame } = this.state;
    if (!take) return nothing;
    const cues = [{ number: 0, seconds: 0, prompt: take.prompt, reached: true, planned_id: null }, ...take.cues];
    const now = frame / take.fps;
    const current = cues.filter((cue) => cue.reached && cue.seconds <= now + 1e-6).at(-1);
    return html`
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
        <div class="playhead" ${styled({ left: `${(100 * now) / lastSecond(take)}%` })}></div>
      </div>
      <ul class="cues" aria-label="Cues">
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
    // Closer than this, ticks would be a grey band.
    const ticks = take.segments.length <= 200 ? take.segments : take.segments.filter((segment) => segment.key);
    return html`<svg aria-hidden="true">
      ${labels.map((at) => svg`<text x=${percent(at)} y="1em" text-anchor=${at === 0 ? "start" : at > end * 0.97 ? "end" : "middle"}>${clock(at).slice(0, -2)}</text>`)}
      <rect class="asked" x="0" y="1.6em" width="100%" height="1.4em"></rect>
      <rect class="made" x="0" y="1.6em" width=${percent(take.made_seconds)} height="1.4em"></rect>
      ${ticks.map((segment) => svg`<line class="tick" x1=${percent(segment.seconds)} x2=${percent(segment.seconds)} y1="1.6em" y2="3em"></line>`)}
      ${
        markIn === null && markOut === null
          ? nothing
          : svg`<rect class="range" x=${percent(from / take.fps)} width=${percent((to - from) / take.fps)} y="1.5em" height="1.5em"></rect>`
      }
      ${take.cues.map(
        (cue) => svg`<line class=${cue.reached ? "cue" : "cue planned"} x1=${percent(cue.seconds)} x2=${percent(cue.seconds)} y1="1.3em" y2="3.3em"></line>`,
      )}
    </svg>`;
  }

  private cue(cue: Cue, take: TakeDetail) {
    if (cue.planned_id && cue.planned_id === this.edited) return this.cueForm(cue, take);
    return html`
      <button class="time" @click=${() => jump(Math.ceil(cue.seconds * take.fps - 1e-6))} ?disabled=${!cue.reached}>
        ${clock(cue.seconds)}
      </button>
      <span class="words one-line">${cue.prompt}</span>
      ${cue.planned_id
        ? html`<button @click=${() => (this.edited = cue.planned_id)}>Edit</button>
            <button @click=${() => command({ do: "withdraw_cue", planned_id: cue.planned_id! })}>Withdraw</button>`
        : nothing}
    `;
  }

  private cueForm(cue: Cue, take: TakeDetail) {
    return html`<form @submit=${(event: SubmitEvent) => this.saveCue(event, cue, take)}>
      <input name="at" size="7" aria-label="Timecode of the cue" .value=${clock(cue.seconds)} />
      <input name="prompt" aria-label="Words of the cue" .value=${cue.prompt} />
      <button class="primary">Save</button>
      <button type="button" @click=${() => (this.edited = null)}>Cancel</button>
    </form>`;
  }

  private async saveCue(event: SubmitEvent, cue: Cue, take: TakeDetail): Promise<void> {
    event.preventDefault();
    const fields = new FormData(event.target as HTMLFormElement);
    const written = String(fields.get("at"));
    const at = parseTimecode(written, take.fps);
    if (at === null) return store.alert(`“${written}” is not a timecode; write 12.5, 0:12.5 or 00:00:12:08`);
    const prompt = String(fields.get("prompt"));
    const answer = await command({ do: "edit_cue", planned_id: cue.planned_id!, prompt, at });
    if (answer) this.edited = null;
  }

  private grab(event: PointerEvent): void {
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

customElements.define("studio-timeline", StudioTimeline);
