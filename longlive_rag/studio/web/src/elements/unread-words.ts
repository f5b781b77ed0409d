import { css, html, nothing } from "lit";
import { api } from "../api";
import { shared, StudioElement } from "./base";

const ASK_AFTER_MS = 250;

/** Names the words of a prompt that a backbone has never read, while it is typed. */
export class UnreadWords extends StudioElement {
  static override properties = { backbone: {}, prompt: {}, words: { state: true } };
  declare backbone: string;
  declare prompt: string;
  declare words: string[];
  protected watches = [] as const;
  private waiting?: ReturnType<typeof setTimeout>;

  static override styles = [
    shared,
    css`
      :host {
        display: inline;
        color: var(--playhead);
      }
    `,
  ];

  constructor() {
    super();
    this.backbone = "";
    this.prompt = "";
    this.words = [];
  }

  override render() {
    return this.words.length ? html`<span role="status">Never read by ${this.backbone}: ${this.words.join(", ")}</span>` : nothing;
  }

  protected override updated(changed: Map<string, unknown>): void {
    if (!changed.has("prompt") && !changed.has("backbone")) return;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.ask(), ASK_AFTER_MS);
  }

  private async ask(): Promise<void> {
    const { backbone, prompt } = this;
    const words = prompt.trim() && backbone ? await api.unknownWords(backbone, prompt).catch(() => []) : [];
    if (prompt === this.prompt) this.words = words;
  }
}

customElements.define("unread-words", UnreadWords);
