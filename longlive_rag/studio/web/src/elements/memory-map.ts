import { css, html } from "lit";
import { jump } from "../actions";
import type { BlockMemory, Remembered, TakeDetail } from "../schema";
import { lastSecond, segmentAt } from "../store";
import { clock } from "../timecode";
import { shared, StudioElement } from "./base";

const SIZE = 560;

/**
 * The memory of the whole take: across, when a block was made; up, which past moment it brought back.
 * A click goes to the block, with Shift (or the right button) to the past moment.
 */
export class MemoryMap extends StudioElement {
  protected watches = ["take", "frame"] as const;

  static override styles = [
    shared,
    css`
      figure {
        margin: 0;
      }
      canvas {
        display: block;
        width: 100%;
        height: clamp(150px, 24vh, 420px);
        background: var(--ground);
        border: 1px solid var(--line);
        cursor: crosshair;
      }
      figcaption {
        display: flex;
        justify-content: space-between;
        font-size: 0.9em;
      }
    `,
  ];

  override render() {
    const { take } = this.state;
    const end = take ? lastSecond(take) : 0;
    return html`<figure>
      <canvas
        width=${SIZE}
        height=${SIZE}
        role="application"
        tabindex="0"
        aria-label="Map of the memory: across the block that was made, up the past moment it brought back. Left and right go from block to block, Enter to what it brought back"
        title="Click (or ← →): to the block. Shift and click (or Enter): to the past moment it brought back"
        @keydown=${this.key}
        @click=${(event: MouseEvent) => this.pick(event, event.shiftKey)}
        @contextmenu=${(event: MouseEvent) => this.pick(event, true)}
      ></canvas>
      <figcaption class="quiet time"><span>0:00</span><span>made at → · brought back ↑</span><span>${clock(end)}</span></figcaption>
    </figure>`;
  }

  protected override updated(): void {
    const { take, frame } = this.state;
    const canvas = this.renderRoot.querySelector("canvas")!;
    const context = canvas.getContext("2d")!;
    context.clearRect(0, 0, SIZE, SIZE);
    if (!take) return;
    const scale = SIZE / lastSecond(take);
    drawDiagonal(context);
    drawMarks(context, take, frame, scale);
    const current = segmentAt(take.segments, frame)?.block;
    const width = Math.max(2, (take.segments.at(-2)?.frames ?? 1) * (scale / take.fps) - 1);
    for (const entry of take.memory) drawBlock(context, entry, scale, width, entry.block === current);
  }

  private key(event: KeyboardEvent): void {
    const { take, frame } = this.state;
    const here = take && segmentAt(take.segments, frame)?.block;
    if (here === null || here === undefined) return;
    const recalling = take!.memory.filter((entry) => entry.remembered.some(isOwn));
    if (event.key === "ArrowLeft") this.goTo(recalling.findLast((entry) => entry.block < here));
    else if (event.key === "ArrowRight") this.goTo(recalling.find((entry) => entry.block > here));
    else if (event.key === "Enter") {
      const best = recalling.find((entry) => entry.block === here)?.remembered.find(isOwn);
      if (best) jump(best.frame);
    } else return;
    event.preventDefault();
  }

  private goTo(entry: BlockMemory | undefined): void {
    if (entry) jump(this.state.take!.segments[entry.block].first_frame);
  }

  private pick(event: MouseEvent, past: boolean): void {
    event.preventDefault();
    const { take } = this.state;
    if (!take) return;
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const end = lastSecond(take);
    const made = ((event.clientX - box.left) / box.width) * end;
    const remembered = (1 - (event.clientY - box.top) / box.height) * end;
    if (!past) return jump(made * take.fps);
    const entry = take.memory.findLast((other) => other.seconds <= made);
    const own = entry?.remembered.filter(isOwn) ?? [];
    const distance = (seconds: number) => Math.abs(seconds - remembered);
    const nearest = own.sort((a, b) => distance(a.seconds) - distance(b.seconds))[0];
    jump(nearest ? nearest.frame : remembered * take.fps);
  }
}

type Own = Remembered & { frame: number; seconds: number };

function isOwn(past: Remembered): past is Own {
  return past.take === null && past.frame !== null && past.seconds !== null;
}

function drawDiagonal(context: CanvasRenderingContext2D): void {
  context.strokeStyle = "#3a4048";
  context.beginPath();
  context.moveTo(0, SIZE);
  context.lineTo(SIZE, 0);
  context.stroke();
}

/** Cues as quiet lines, cuts as bright ones; the playhead across as a block that is made, and along as a moment that may be remembered. */
function drawMarks(context: CanvasRenderingContext2D, take: TakeDetail, frame: number, scale: number): void {
  for (const cue of take.cues) {
    context.fillStyle = cue.cut ? "#ffffff" : "#2f343a";
    context.fillRect(cue.seconds * scale, 0, 1, SIZE);
  }
  context.fillStyle = "#f0b64d";
  const now = (frame / take.fps) * scale;
  context.fillRect(now, 0, 2, SIZE);
  context.globalAlpha = 0.45;
  context.fillRect(now, SIZE - now, SIZE - now, 1);
  context.globalAlpha = 1;
}

function drawBlock(context: CanvasRenderingContext2D, entry: BlockMemory, scale: number, width: number, current: boolean): void {
  for (const past of entry.remembered) {
    if (!isOwn(past)) continue;
    context.fillStyle = current ? "#ffffff" : "#6cc4b4";
    context.globalAlpha = current ? 1 : Math.max(0.25, past.similarity ** 4);
    context.fillRect(entry.seconds * scale, SIZE - past.seconds * scale - 5, width, current ? 10 : 7);
  }
  context.globalAlpha = 1;
}

customElements.define("memory-map", MemoryMap);
