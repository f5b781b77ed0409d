import { css, html, nothing, svg } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { addTwin } from "../actions";
import { api } from "../api";
import { Feed } from "../feed";
import type { Drift, Take, TakeDetail } from "../schema";
import { store } from "../store";
import { clock } from "../timecode";
import { shared, StudioElement } from "./base";

const EMBEDDERS = ["tiny-world", "latent", "dino", "clip"];
const IN_STEP_EVERY_MS = 100;
const COLOURS = ["#f0b64d", "#6cc4b4", "#8ab8ff", "#e59ac8"];
const REFRESH_MS = 3000;

/** Other takes in step with the stage, and how far each drifts from its own beginning. */
export class StudioCompare extends StudioElement {
  static override properties = { drifts: { state: true }, embedder: { state: true } };
  /** Of the open take and the compared ones, by id; null: could not be measured. */
  declare drifts: Record<string, Drift | null>;
  declare embedder: string;
  protected watches = ["compared", "takes", "take", "jumps", "rate"] as const;
  private players = new Map<string, Player>();
  private inStep?: ReturnType<typeof setInterval>;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template-rows: auto minmax(0, 1fr) auto;
        background: #000;
        min-height: 0;
      }
      .head {
        display: flex;
        gap: 0.5em;
        align-items: center;
        padding: 0.3em 0.6em;
        background: var(--panel);
      }
      .head select {
        flex: 1;
        width: 0;
      }
      .videos {
        display: grid;
        grid-auto-flow: column;
        grid-auto-columns: minmax(0, 1fr);
        gap: 2px;
        min-height: 0;
      }
      figure {
        margin: 0;
        display: grid;
        grid-template-rows: minmax(0, 1fr) auto;
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
        padding: 0.2em 0.6em;
        background: var(--panel);
      }
      figcaption span {
        flex: 1;
      }
      .drift {
        background: var(--panel);
        padding: 0.3em 0.6em;
        border-top: 1px solid var(--line);
      }
      svg {
        display: block;
        width: 100%;
        height: clamp(70px, 12vh, 200px);
        background: var(--ground);
      }
      path {
        fill: none;
        stroke-width: 2;
        vector-effect: non-scaling-stroke;
      }
      .legend {
        display: flex;
        gap: 1em;
        align-items: center;
        flex-wrap: wrap;
        min-height: 2em;
      }
      .key {
        display: inline-block;
        width: 1.2em;
        height: 0.7em;
      }
    `,
  ];

  constructor() {
    super();
    this.drifts = {};
    this.embedder = EMBEDDERS[0];
  }

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
          (other) => html`<figure>
            <video muted playsinline tabindex="-1" data-id=${other.id} aria-label=${other.name}></video>
            <figcaption>
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
    const takes = this.takes.filter((take) => this.drifts[take.id]);
    const all = takes.map((take) => this.drifts[take.id]!);
    const end = Math.max(1, ...all.flatMap((drift) => drift.seconds));
    const values = all.flatMap((drift) => drift.values).filter((value) => value !== null);
    const low = Math.min(...values, 1);
    const high = Math.max(...values, low + 1e-6);
    const height = (value: number) => 2 + (96 * (high - value)) / (high - low);
    // Where there was nothing to compare, the line is broken.
    const line = ({ seconds, values }: Drift) =>
      values
        .map((value, index) => {
          if (value === null) return "";
          const begins = index === 0 || values[index - 1] === null;
          return `${begins ? "M" : "L"}${(100 * seconds[index]) / end},${height(value)}`;
        })
        .join("");
    return html`<div class="drift">
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="Drift curve">
        ${all.map((drift, index) => svg`<path d=${line(drift)} stroke=${COLOURS[index % COLOURS.length]}></path>`)}
      </svg>
      <div class="legend time">
        <label class="quiet">
          Drift by
          <select @change=${this.chooseEmbedder}>
            ${EMBEDDERS.map((name) => html`<option ?selected=${name === this.embedder}>${name}</option>`)}
          </select>
        </label>
        ${all.length && !all[0].independent ? html`<span class="quiet">${all[0].label || "no independent judge"}</span>` : nothing}
        ${takes.map(
          (take, index) => html`<span>
            <svg class="key" aria-hidden="true"><rect width="100%" height="100%" fill=${COLOURS[index % COLOURS.length]}></rect></svg>
            ${take.name} ${Object.entries(all[index].D).map(([seconds, value]) => html`<span class="quiet">D${seconds} ${value?.toFixed(3) ?? "–"} </span>`)}
          </span>`,
        )}
      </div>
    </div>`;
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
    for (const take of this.takes) {
      if (!(take.id in this.drifts) && take.status !== "live" && take.status !== "running") void this.measure(take.id);
    }
    this.keepInStep();
  }

  /** The server answers once a take is made; until then the curve is simply not there. */
  private async measure(id: string): Promise<void> {
    const { embedder } = this;
    this.drifts = { ...this.drifts, [id]: null };
    try {
      const drift = await api.drift(id, embedder);
      if (embedder === this.embedder) this.drifts = { ...this.drifts, [id]: drift };
    } catch (error) {
      store.update({ note: `No drift curve by ${embedder}: ${(error as Error).message}` });
    }
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

  private chooseEmbedder(event: Event): void {
    this.embedder = (event.target as HTMLSelectElement).value;
    this.drifts = {};
  }
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
