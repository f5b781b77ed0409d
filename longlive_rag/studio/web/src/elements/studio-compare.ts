import { css, html, svg } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { addTwin, measure } from "../actions";
import { api } from "../api";
import { driftPath, figures, lowest } from "../drift";
import { Feed } from "../feed";
import type { Take, TakeDetail } from "../schema";
import { driftOf, store } from "../store";
import { clock } from "../timecode";
import { shared, shortened, StudioElement } from "./base";
import "./drift-by";

const IN_STEP_EVERY_MS = 100;
const COLOURS = ["#f0b64d", "#6cc4b4", "#8ab8ff", "#e59ac8"];
const REFRESH_MS = 3000;

/** Other takes in step with the stage, and how far each drifts from its own beginning. */
export class StudioCompare extends StudioElement {
  protected watches = ["compared", "takes", "take", "jumps", "rate", "studio", "embedder", "drifts"] as const;
  private players = new Map<string, Player>();
  private inStep?: ReturnType<typeof setInterval>;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template: subgrid / subgrid;
        min-height: 0;
      }
      .head {
        grid-area: 1 / 1 / 2 / -1;
        display: flex;
        gap: 0.5em;
        align-items: center;
        padding: 0.3em 0.6em;
        background: var(--panel);
      }
      .head select {
        flex: 1;
        max-width: 24em;
      }
      .head button:last-child {
        margin-left: auto;
      }
      .videos {
        grid-area: 2 / 2;
        background: #000;
        display: grid;
        grid-auto-flow: column;
        grid-auto-columns: minmax(0, 1fr);
        gap: 2px;
        min-height: 0;
      }
      figure {
        margin: 0;
        display: grid;
        grid-template: minmax(0, 1fr) auto / minmax(0, 1fr);
        min-height: 0;
      }
      video {
        width: 100%;
        height: 100%;
        object-fit: contain;
        min-height: 0;
      }
      figcaption {
        display: flex;
        gap: 0.5em;
        align-items: center;
        height: 1.8em;
        padding: 0 0.6em;
        background: var(--panel);
      }
      figcaption span {
        flex: 1;
      }
      figcaption button {
        padding: 0 0.4em;
        line-height: 1.3;
      }
      .drift {
        grid-area: 3 / 1 / 4 / -1;
        background: var(--panel);
        padding: 0.3em 0.6em;
        border-top: 1px solid var(--line);
      }
      svg {
        display: block;
        width: 100%;
        height: clamp(54px, 8vh, 200px);
        background: var(--ground);
      }
      path {
        fill: none;
        stroke-width: 2;
        vector-effect: non-scaling-stroke;
      }
      .legend {
        display: flex;
        column-gap: 1.4em;
        align-items: center;
        flex-wrap: wrap;
        white-space: nowrap;
        margin-top: 0.3em;
      }
      .of {
        display: flex;
        gap: 0.4em;
        align-items: center;
      }
      .key {
        display: inline-block;
        flex: none;
        width: 1.2em;
        height: 0.7em;
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.setAttribute("role", "region");
    this.setAttribute("aria-label", "Compare");
    this.inStep = setInterval(() => this.keepInStep(), IN_STEP_EVERY_MS);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    clearInterval(this.inStep);
    for (const player of this.players.values()) player.close();
    this.players.clear();
  }

  private get takes(): Take[] {
    const { take, takes, compared } = this.state;
    const others = (compared ?? []).map((id) => takes.find((other) => other.id === id));
    return [take, ...others].filter((each): each is Take => !!each);
  }

  override render() {
    const { compared, takes, take } = this.state;
    const offered = takes.filter((other) => other.id !== take?.id && !compared?.includes(other.id));
    const others = this.takes.slice(1);
    return html`
      <div class="head">
        <select aria-label="Take to compare with" @change=${this.add}>
          <option value="">Compare with …</option>
          ${offered.map((other) => html`<option value=${other.id}>${other.name}, ${clock(other.made_seconds)}</option>`)}
        </select>
        <button @click=${addTwin} title="The same request and noise, without memory">Without memory</button>
        <button @click=${() => store.update({ compared: null })} aria-label="Close the comparison">✕</button>
      </div>
      <div class="videos">
        ${repeat(
          others,
          (other) => other.id,
          (other, index) => html`<figure>
            <video muted playsinline tabindex="-1" data-id=${other.id} aria-label=${other.name}></video>
            <figcaption>
              ${key(index + 1)}
              <span class="one-line">${other.name}</span>
              <button @click=${() => this.leaveOut(other.id)} aria-label="Remove ${other.name}">✕</button>
            </figcaption>
          </figure>`,
        )}
      </div>
      ${this.drift()}
    `;
  }

  private drift() {
    const measured = this.takes.flatMap((take, index) => {
      const drift = driftOf(take, this.state);
      return drift && typeof drift !== "string" ? [{ take, drift, colour: COLOURS[index % COLOURS.length] }] : [];
    });
    const all = measured.map(({ drift }) => drift);
    const end = Math.max(1, ...all.flatMap((drift) => drift.seconds));
    const low = lowest(all);
    return html`<div class="drift">
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="Drift curve: likeness to the first second">
        ${measured.map(({ drift, colour }) => svg`<path d=${driftPath(drift, end, low)} stroke=${colour}></path>`)}
      </svg>
      <div class="legend time">
        <drift-by></drift-by>
        <span class="quiet">scale ${low.toFixed(2)} – 1${all.some((drift) => !drift.independent) ? " · no independent judge" : ""}</span>
        ${this.takes.map(
          (take, index) => html`<span class="of">${key(index)} ${shortened(take.name)} <span class="quiet one-line">${this.figures(take)}</span></span>`,
        )}
      </div>
    </div>`;
  }

  /** D of a take, or why there is none yet. */
  private figures(take: Take): string {
    const drift = driftOf(take, this.state);
    if (take.status === "live" || take.status === "running") return "is being made";
    return drift === undefined || typeof drift === "string" ? (drift ?? "") : figures(drift);
  }

  protected override updated(): void {
    const wanted = new Set(this.takes.slice(1).map((take) => take.id));
    for (const [id, player] of this.players) {
      if (wanted.has(id)) continue;
      player.close();
      this.players.delete(id);
    }
    for (const video of this.renderRoot.querySelectorAll("video")) {
      const id = video.dataset.id!;
      if (!this.players.has(id)) this.players.set(id, new Player(video, id));
    }
    for (const take of this.takes) void measure(take);
    this.keepInStep();
  }

  private keepInStep(): void {
    const { take, frame, rate } = this.state;
    if (take) for (const player of this.players.values()) player.follow(frame / take.fps, rate);
  }

  private add(event: Event): void {
    const select = event.target as HTMLSelectElement;
    if (select.value) store.update({ compared: [...(this.state.compared ?? []), select.value] });
    select.value = "";
  }

  private leaveOut(id: string): void {
    store.update({ compared: this.state.compared!.filter((other) => other !== id) });
  }
}

/** The colour of a take's curve. */
function key(index: number) {
  return html`<svg class="key" aria-hidden="true"><rect width="100%" height="100%" fill=${COLOURS[index % COLOURS.length]}></rect></svg>`;
}

/** One video that is kept at the stage's time. */
class Player {
  private feed?: Feed;
  private take?: TakeDetail;
  private refreshing?: ReturnType<typeof setTimeout>;
  private closed = false;

  constructor(
    private video: HTMLVideoElement,
    private id: string,
  ) {
    video.muted = true;
    void this.load();
  }

  follow(seconds: number, rate: number): void {
    const { video, take } = this;
    if (!take) return;
    const last = Math.max(0, take.frames - 1);
    const behind = seconds + 0.5 / take.fps - video.currentTime;
    const ended = seconds * take.fps >= last;
    if (rate > 0 && !ended) {
      if (video.paused) video.play().catch(() => {});
      // Small differences are caught up by speed, which is not seen; large ones by a seek.
      if (Math.abs(behind) > 0.5) video.currentTime = seconds;
      video.playbackRate = rate * (1 + Math.max(-0.1, Math.min(0.1, behind)));
      return;
    }
    video.pause();
    const exact = (Math.min(Math.round(seconds * take.fps), last) + 0.5) / take.fps;
    if (!video.seeking && Math.abs(video.currentTime - exact) > 1e-3) video.currentTime = exact;
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.refreshing);
    this.feed?.close();
  }

  /** Reads a take that is still being made again and again; events come only for the open one. */
  private async load(): Promise<void> {
    clearTimeout(this.refreshing);
    const take = await api.take(this.id).catch(() => null);
    if (this.closed) return;
    if (take) {
      this.take = take;
      this.feed ??= new Feed(this.video, take.fps, take.mime, () => this.load());
      this.feed.update(take.segments);
    }
    if (!take || take.status === "live" || take.status === "running") {
      this.refreshing = setTimeout(() => this.load(), REFRESH_MS);
    }
  }
}

customElements.define("studio-compare", StudioCompare);
