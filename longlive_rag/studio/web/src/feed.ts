import { api, Refusal } from "./api";
import type { Segment } from "./schema";
import { segmentAt, store } from "./store";

const AHEAD_SECONDS = 20;
const BEHIND_SECONDS = 40;
const LONGEST_SECONDS = 1e6;
const RETRY_MS = 1000;
const MOOF = 0x6d6f6f66;

/**
 * Keeps a `<video>` supplied with the segments around its current time.
 *
 * A segment that is not a key can only be decoded right after the one before it, so a jump appends again from the last key.
 * What lies far from the current time is dropped, a whole run from key to key at once: the page's memory stays flat.
 */
export class Feed {
  private source = new MediaSource();
  private buffer: SourceBuffer | null = null;
  private segments: Segment[] = [];
  private appended = new Map<number, Segment>();
  private newest = -1;
  private pumping = false;
  private closed = false;

  constructor(
    private video: HTMLVideoElement,
    private fps: number,
    mime: string,
    /** Told that an address is void although no list said so. */
    private onVoid: () => void,
  ) {
    const address = URL.createObjectURL(this.source);
    this.source.addEventListener("sourceopen", () => {
      URL.revokeObjectURL(address);
      if (this.closed) return;
      if (!MediaSource.isTypeSupported(mime)) {
        store.alert(`This browser can't play ${mime}; open the studio in another browser, or export the take`);
        return;
      }
      this.buffer = this.source.addSourceBuffer(mime);
      this.source.duration = Infinity;
      // Else a seek would stop where the loaded part ends.
      this.source.setLiveSeekableRange(0, LONGEST_SECONDS);
      void this.pump();
    });
    video.src = address;
    video.addEventListener("timeupdate", this.pump);
    video.addEventListener("seeking", this.pump);
  }

  /** All segments of the take, in order from block 0. */
  update(segments: Segment[]): void {
    this.segments = segments;
    void this.pump();
  }

  close(): void {
    this.closed = true;
    this.video.removeEventListener("timeupdate", this.pump);
    this.video.removeEventListener("seeking", this.pump);
    this.video.removeAttribute("src");
    this.video.load();
  }

  private pump = async (): Promise<void> => {
    if (this.pumping || !this.buffer) return;
    this.pumping = true;
    try {
      while (!this.closed && (await this.work()));
    } catch (error) {
      if (this.closed) return;
      if (!(error instanceof Refusal)) {
        this.buffer = null; // it takes nothing more
        store.alert(error instanceof Error ? error.message : String(error));
        return;
      }
      // Cut away meanwhile, or a network that stalls: a newer list or the next try has it.
      if (error.status === 404) this.onVoid();
      setTimeout(this.pump, RETRY_MS);
    } finally {
      this.pumping = false;
    }
  };

  /** One removal or one append; false when there is nothing to do. */
  private async work(): Promise<boolean> {
    const cut = [...this.appended.values()].find(({ block, url }) => this.segments[block]?.url !== url);
    if (cut) return this.remove(cut.seconds, Infinity);
    const next = this.nextMissing();
    if (!next) return this.removeFarOnes();
    const bytes = await api.bytes(next.url);
    if (this.closed || this.segments[next.block]?.url !== next.url) return true;
    await this.change((buffer) => buffer.appendBuffer(next.key ? bytes : withoutHeader(bytes)));
    this.appended.set(next.block, next);
    this.newest = next.block;
    return true;
  }

  private nextMissing(): Segment | undefined {
    const here = segmentAt(this.segments, Math.floor(this.video.currentTime * this.fps));
    if (!here) return undefined;
    const until = this.video.currentTime + AHEAD_SECONDS;
    for (let block = this.keyOf(here.block); block < this.segments.length; block++) {
      const segment = this.segments[block];
      if (segment.seconds > until) return undefined;
      if (this.appended.has(block)) continue;
      if (segment.key || this.newest === block - 1) return segment;
      const key = this.keyOf(block);
      for (let again = key; again < block; again++) this.appended.delete(again);
      return this.segments[key];
    }
    return undefined;
  }

  private async removeFarOnes(): Promise<boolean> {
    const now = this.video.currentTime;
    const far = [...this.appended.values()].find(({ block }) => {
      const start = this.segments[this.keyOf(block)].seconds;
      return this.endOfRun(block) < now - BEHIND_SECONDS || start > now + AHEAD_SECONDS + BEHIND_SECONDS;
    });
    return far ? this.remove(this.segments[this.keyOf(far.block)].seconds, this.endOfRun(far.block)) : false;
  }

  private async remove(from: number, to: number): Promise<boolean> {
    await this.change((buffer) => buffer.remove(from, to));
    for (const { block, seconds } of [...this.appended.values()]) {
      if (seconds >= from && seconds < to) this.appended.delete(block);
    }
    if (!this.appended.has(this.newest)) this.newest = -1;
    return true;
  }

  private change(how: (buffer: SourceBuffer) => void): Promise<void> {
    const buffer = this.buffer!;
    return new Promise((resolve, reject) => {
      buffer.onupdateend = () => resolve();
      buffer.onerror = () => reject(new Error("A segment of the take can't be decoded"));
      how(buffer);
    });
  }

  private keyOf(block: number): number {
    while (block > 0 && !this.segments[block].key) block--;
    return block;
  }

  /** Where the run of segments that hang on one key ends, in seconds. */
  private endOfRun(block: number): number {
    let next = block + 1;
    while (next < this.segments.length && !this.segments[next].key) next++;
    return this.segments[next]?.seconds ?? Infinity;
  }
}

/** Without ftyp and moov: a second header would make the decoder wait for the next key. */
function withoutHeader(bytes: ArrayBuffer): ArrayBuffer {
  const view = new DataView(bytes);
  for (let at = 0; at + 8 <= bytes.byteLength; at += view.getUint32(at)) {
    if (view.getUint32(at + 4) === MOOF) return bytes.slice(at);
  }
  return bytes;
}
