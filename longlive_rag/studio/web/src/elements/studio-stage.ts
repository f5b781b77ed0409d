import { css, html, nothing } from "lit";
import { jump, readAgain } from "../actions";
import { api } from "../api";
import { Feed } from "../feed";
import { segmentAt, store } from "../store";
import { clock, megabytes } from "../timecode";
import { shared, StudioElement } from "./base";

const FOLLOW_WITHIN_BLOCKS = 2;

/** The picture: plays, seeks frame by frame and follows a take that is being made. */
export class StudioStage extends StudioElement {
  protected watches = ["take", "jumps", "rate", "stats", "connected"] as const;
  private video!: HTMLVideoElement;
  private feed?: Feed;
  private openId = "";
  private jumpsSeen = -1;
  /** The frame that is on the screen, which trails the playhead while a seek is under way. */
  private shown = 0;
  private toldBlock?: number;
  /** A picture of the parent is shown in place of a branch's that isn't there yet. */
  private held = false;
  private backwards?: ReturnType<typeof setInterval>;

  static override styles = [
    shared,
    css`
      :host {
        display: grid;
        grid-template-rows: minmax(0, 1fr) auto;
        background: #000;
        min-height: 0;
      }
      video,
      canvas {
        grid-area: 1 / 1;
        width: 100%;
        height: 100%;
        object-fit: contain;
        min-height: 0;
      }
      div {
        display: flex;
        flex-wrap: wrap;
        column-gap: 1.6em;
        height: 1.8em;
        padding: 0.2em 0.7em;
        background: var(--panel);
        color: var(--quiet);
        white-space: nowrap;
        overflow: hidden;
      }
      div b {
        color: var(--text);
        font-weight: 500;
      }
      p {
        grid-area: 1 / 1;
        place-self: center;
        margin: 0;
        color: var(--quiet);
      }
      .offline {
        color: var(--live);
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.setAttribute("role", "region");
    this.setAttribute("aria-label", "Stage");
  }

  override render() {
    const { take, stats, connected } = this.state;
    return html`
      <canvas aria-hidden="true"></canvas>
      <video muted playsinline tabindex="-1" aria-label="The take"></video>
      <p role="status">${take?.status === "live" && !take.waiting && !take.frames ? "The first block is being made …" : ""}</p>
      <div role="status" aria-live="off" class="time">
        ${take
          ? html`<span>made <b>${clock(take.made_seconds)}</b></span>
              <span>shown <b id="shown"></b></span>
              <span><b>${stats ? stats.fps.toFixed(1) : "–"}</b> frames a second</span>
              <span>memory in use <b>${stats ? megabytes(stats.memory_bytes) : "–"}</b></span>`
          : nothing}
        ${connected === false ? html`<span class="offline">not connected; trying again</span>` : nothing}
      </div>
    `;
  }

  protected override firstUpdated(): void {
    this.video = this.renderRoot.querySelector("video")!;
    this.video.muted = true;
    this.video.addEventListener("waiting", this.stalled);
    this.watchFrames();
  }

  protected override updated(): void {
    const { take, jumps, rate } = this.state;
    if (take?.id !== this.openId) this.openFeed();
    if (!take) return;
    this.feed!.update(take.segments);
    const jumped = jumps !== this.jumpsSeen;
    this.jumpsSeen = jumps;
    if (rate > 0) this.play(rate);
    else this.pause(rate, jumped);
    if (jumped) this.showPlayhead();
    this.follow();
  }

  private openFeed(): void {
    const { take } = this.state;
    this.holdPicture(take?.parent === this.openId);
    this.feed?.close();
    this.openId = take?.id ?? "";
    this.shown = this.state.frame;
    this.sayShown();
    this.feed = take ? new Feed(this.video, take.fps, take.mime, readAgain) : undefined;
    this.jumpsSeen = -1;
  }

  /** A branch goes on from the picture that is shown, so it stays until the branch has one. */
  private holdPicture(goesOn: boolean): void {
    const { videoWidth, videoHeight } = this.video;
    this.held = goesOn && videoWidth > 0;
    const canvas = this.renderRoot.querySelector("canvas")!;
    Object.assign(canvas, { width: videoWidth || 1, height: videoHeight || 1 });
    if (this.held) canvas.getContext("2d")!.drawImage(this.video, 0, 0);
  }

  /** Seeks to the middle of the frame, where rounding cannot show a neighbour. */
  private showPlayhead(): void {
    const { take, frame } = this.state;
    if (!take) return;
    this.video.currentTime = (frame + 0.5) / take.fps;
    // The frame may not be made yet, and what is ahead of the playhead may wait for it.
    this.tellPlayhead();
  }

  private play(rate: number): void {
    clearInterval(this.backwards);
    this.video.playbackRate = rate;
    // Rejected when a pause comes first, which is no fault.
    if (this.video.paused) this.video.play().catch(() => {});
  }

  private pause(rate: number, jumped: boolean): void {
    clearInterval(this.backwards);
    if (!this.video.paused) {
      this.video.pause();
      // The playhead stops where the picture did, unless it was sent elsewhere.
      if (!jumped && !this.video.seeking) store.update({ frame: this.shown });
      this.showPlayhead();
    }
    // Browsers play forwards only, so backwards is one seek a frame.
    if (rate < 0) this.backwards = setInterval(() => this.stepBack(), 1000 / (this.state.take!.fps * -rate));
  }

  private stepBack(): void {
    if (this.video.seeking) return;
    if (this.state.frame === 0) store.update({ rate: 0 });
    else jump(this.state.frame - 1);
  }

  private follow(): void {
    const { take, following, rate, frame } = this.state;
    if (!following || rate <= 0 || !take) return;
    const newest = take.segments.at(-1);
    const here = segmentAt(take.segments, frame);
    if (!newest || !here || newest.block - here.block <= FOLLOW_WITHIN_BLOCKS) return;
    store.update({ frame: newest.first_frame });
    this.showPlayhead();
  }

  private watchFrames = (): void => {
    this.video.requestVideoFrameCallback((_now, facts) => {
      this.frameShown(facts.mediaTime);
      this.watchFrames();
    });
  };

  /** Of frames that a busy machine drops nothing is said, and making may wait for the last one. */
  private stalled = (): void => {
    const { take } = this.state;
    const { readyState, seeking, currentTime } = this.video;
    if (!take?.frames || seeking || readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
    const frame = Math.min(Math.floor(currentTime * take.fps), take.frames - 1);
    this.frameShown(frame / take.fps);
    // A browser may stall on the frame before the last one, although it has both.
    if (frame === take.frames - 2) this.video.currentTime = (frame + 1.5) / take.fps;
  };

  private frameShown(mediaTime: number): void {
    const { take, rate } = this.state;
    if (!take) return;
    if (this.held) this.holdPicture(false);
    this.shown = Math.round(mediaTime * take.fps);
    this.video.dataset.frame = String(this.shown);
    this.sayShown();
    if (rate > 0 && !this.video.seeking) {
      store.update({ frame: this.shown });
      if (this.shown >= take.frames - 1 && take.status !== "live") store.update({ rate: 0 });
    }
    // The next block may wait for this one to be reached.
    const block = segmentAt(take.segments, this.shown)?.block;
    if (block === this.toldBlock) return;
    this.toldBlock = block;
    this.tellPlayhead();
  }

  /** Written directly: rendering the whole element for each frame would be wasteful. */
  private sayShown(): void {
    const { take } = this.state;
    const label = this.renderRoot.querySelector("#shown");
    if (label && take) label.textContent = clock(this.shown / take.fps);
  }

  private tellPlayhead(): void {
    const { take, frame } = this.state;
    if (!take) return;
    api.tell({ type: "playhead", take: take.id, seconds: frame / take.fps });
  }
}

customElements.define("studio-stage", StudioStage);
