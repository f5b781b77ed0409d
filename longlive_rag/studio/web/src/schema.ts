/** What goes over the wire. Times are seconds unless they are named frame or block; ids are opaque. */

export interface Knob {
  key: string;
  part: string;
  name: string;
  flag: string;
  help: string;
  type: "int" | "float" | "bool" | "text" | "choice" | "span" | "spans" | "texts" | "steps";
  choices: string[] | null;
  default: unknown;
  at_least: number | null;
  above: number | null;
  at_most: number | null;
  below: number | null;
  unit: string | null;
}

export interface Backbone {
  name: string;
  default: boolean;
  width: number;
  height: number;
  fps: number;
  seconds_a_block: number;
  settings: Knob[];
}

export interface Studio {
  protocol: number;
  version: string;
  takes_folder: string;
  backbones: Backbone[];
  policies: string[];
  /** Those that can judge drift here; not independent: one that made the takes. */
  embedders: Embedder[];
  live: string | null;
}

export interface Embedder {
  name: string;
  independent: boolean;
}

export type Status = "running" | "live" | "finished" | "interrupted" | "failed";
export type Span = [from: number, to: number];

export interface Take {
  id: string;
  name: string;
  status: Status;
  /** Live, but nothing is made before the next direction, or before it is resumed. */
  waiting: boolean;
  prompt: string;
  /** Asked for; made_seconds is what there is. */
  seconds: number;
  made_seconds: number;
  frames: number;
  fps: number;
  width: number;
  height: number;
  backbone: string;
  seed: string;
  started: string;
  parent: string | null;
  parent_block: number | null;
  /** How much of it is the parent's. */
  parent_seconds: number | null;
  blocks: number;
  labels: { license_policy: string; label: string } | null;
  unknown_words: string[];
}

/** A take that can't be opened, and why. */
export interface LeftOut {
  id: string;
  name: string;
  reason: string;
}

export interface Cue {
  number: number | null;
  seconds: number;
  prompt: string;
  /** Another shot begins with it. */
  cut: boolean;
  reached: boolean;
  /** Set while the cue is only planned: it can be edited and withdrawn. */
  planned_id: string | null;
}

export interface Segment {
  block: number;
  first_frame: number;
  frames: number;
  seconds: number;
  /** Can be decoded without the segments before it. */
  key: boolean;
  url: string;
}

export interface Remembered {
  latent_frame: number;
  /** Null where the other take, that the frame is from, isn't there any more. */
  frame: number | null;
  seconds: number | null;
  similarity: number;
  /** The other take; null for the take's own frames. */
  take: string | null;
}

export interface BlockMemory {
  block: number;
  seconds: number;
  remembered: Remembered[];
  /** Which policy chose them. */
  policy: string;
}

/** What memory was told, from `seconds` on. */
export interface Steering {
  seconds: number;
  verb: "pin" | "unpin" | "exclude" | "unexclude" | "establish" | "policy";
  start: number;
  end: number;
  policy: string | null;
}

export interface TakeDetail extends Take {
  /** For Media Source Extensions. */
  mime: string;
  request: Record<string, unknown>;
  cues: Cue[];
  steering: Steering[];
  segments: Segment[];
  memory: BlockMemory[];
  admitted: Span[] | null;
  history: Record<string, unknown>[];
  command: string;
  python: string;
}

export interface Drift {
  embedder: string;
  label: string;
  independent: boolean;
  seconds: number[];
  values: (number | null)[];
  D: Record<string, number | null>;
}

/** Moments that look most like a frame, best first. */
export interface FrameHit {
  take: string;
  frame: number;
  seconds: number;
  similarity: number;
}

export interface NewTake {
  prompt: string;
  /** As text also a timecode. */
  seconds: number | string;
  seed: string;
  backbone: string | null;
  memory: boolean | null;
  start_image: string | null;
  remember: { take: string; from: number; to: number }[];
  settings: Record<string, unknown>;
  cues?: { seconds: number; prompt: string; cut?: boolean }[];
}

export type Command =
  | { do: "direct"; prompt: string; at: number | null; cut: boolean }
  | { do: "edit_cue"; planned_id: string; prompt: string; at: number; cut?: boolean }
  | { do: "withdraw_cue"; planned_id: string }
  | { do: "pin" | "unpin" | "exclude" | "unexclude"; from: number; to: number }
  | { do: "policy"; name: string }
  | { do: "undo_to"; block: number }
  | { do: "branch"; block: number; prompt: string | null; seed: string | null; cut?: boolean }
  | { do: "extend"; seconds: number; prompt: string | null }
  | { do: "stop" }
  | { do: "resume" }
  | { do: "pace"; blocks_ahead: number | null }
  | { do: "native_twin" }
  | { do: "take_over" }
  | { do: "delete" };

/** Each command answers some of these. */
export interface Answer {
  id?: string;
  takes_over_at?: number;
  planned_id?: string | null;
}

export type Exported = "video" | "stills" | "cues" | "sheet" | "otio" | "otio_branch" | "rights";

export interface FieldError {
  field: string;
  value: unknown;
  wanted: string;
  message: string;
}

export interface Stats {
  fps: number;
  made_seconds: number;
  pages_bytes: number;
  memory_bytes: number;
}

export type StudioEvent =
  | { type: "hello"; live: string | null }
  | {
      type: "block";
      take: string;
      segment: Segment;
      memory: BlockMemory | null;
      entered: number[];
      prompt: string;
      cue: number | null;
      stats: Stats;
    }
  | { type: "cut"; take: string; blocks: number }
  | { type: "take"; take: Take }
  | { type: "left_out"; take: LeftOut }
  | { type: "gone"; take: string; deleted: boolean }
  | { type: "cues"; take: string; cues: Cue[] }
  | { type: "steering"; take: string; steering: Steering[] }
  | { type: "note" | "error"; take: string | null; message: string };

export type ClientMessage =
  | { secret: string }
  | { type: "playhead"; take: string; seconds: number }
  | { type: "watch"; take: string }
  | { type: "direct_lock"; take: string };
