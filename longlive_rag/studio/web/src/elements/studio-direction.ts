import { css, html } from "lit";
import { command, currentBlock, goOnWith } from "../actions";
import { blockFrom, store } from "../store";
import { clock, parseTimecode } from "../timecode";
import { shared, StudioElement } from "./base";
import "./unread-words";

/** A line of words that takes over at the next block, or at a timecode; a take that is made branches for it. */
export class StudioDirection extends StudioElement {
  static override properties = { typed: { state: true } };
  declare typed: string;
  protected watches = ["take", "busy"] as const;

  static override styles = [
    shared,
    css`
      form {
        display: grid;
        grid-template-columns: minmax(0, 1fr) 11.5em auto auto;
        align-items: center;
        gap: 0.4em;
        padding: 0.5em 0.6em 0.2em;
        background: var(--panel);
        border-top: 1px solid var(--line);
      }
      @media (width < 40em) {
        form {
          grid-template-columns: minmax(0, 1fr) auto auto;
        }
        [name="prompt"] {
          grid-column: 1 / -1;
        }
      }
      p {
        margin: 0;
        padding: 0 0.7em 0.4em;
        height: 1.9em;
        background: var(--panel);
      }
    `,
  ];

  constructor() {
    super();
    this.typed = "";
  }

  override render() {
    const { take } = this.state;
    const live = take?.status === "live";
    const ready = !!take && (live || take.blocks > 0) && take.status !== "running" && !this.state.busy;
    return html`
      <form @submit=${this.direct}>
        <input name="prompt" aria-label="Direction" dir="auto" autocomplete="off" placeholder=${ready && !live ? "What happens instead" : "What happens next"} ?disabled=${!ready} @input=${this.type} />
        <input name="at" aria-label="Takes over at" placeholder=${ready && !live ? "after this block" : "at the next block"} ?disabled=${!ready} />
        <label title="Another shot begins: what was is gone but for what memory brings back"><input type="checkbox" name="cut" ?disabled=${!ready} /> Cut</label>
        <button class="primary" ?disabled=${!ready}>Direct</button>
      </form>
      <p class="quiet one-line" aria-live="polite">
        ${this.typed
          ? html`<unread-words .backbone=${take?.backbone ?? ""} .prompt=${this.typed}></unread-words>`
          : this.says(live)}
      </p>
    `;
  }

  private says(live: boolean): string {
    const { take, busy } = this.state;
    if (take && busy) return "The take that goes on from here is being opened …";
    if (take?.unknown_words.length) return `The backbone has never read: ${take.unknown_words.join(", ")}`;
    if (take?.waiting) return "This take waits: direct it, or resume it with the words it has";
    if (!take?.blocks || live) return "";
    if (take.status === "running") return "It is made by another program; what is made can be watched";
    const branches = "what you direct becomes a branch, after the block under the playhead";
    return take.status === "finished" ? `This take is made: ${branches}` : `Resume goes on with this take; ${branches}`;
  }

  private type(event: InputEvent): void {
    this.typed = (event.target as HTMLInputElement).value;
  }

  /** Empties the fields that still hold what was sent: the director may be typing the next direction by now. */
  private empty(form: HTMLFormElement, sent: FormData): void {
    for (const input of form.querySelectorAll("input")) {
      if (input.value !== sent.get(input.name)) continue;
      if (input.type === "checkbox") input.checked = false;
      else input.value = "";
    }
    this.typed = form.querySelector<HTMLInputElement>("[name=prompt]")!.value;
  }

  private async direct(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const form = event.target as HTMLFormElement;
    const fields = new FormData(form);
    const prompt = String(fields.get("prompt")).trim();
    const when = String(fields.get("at")).trim();
    const cut = fields.has("cut");
    const { take } = this.state;
    if (!prompt || !take) return;
    const at = when ? parseTimecode(when, take.fps) : null;
    const refuse = (message: string) => store.alert(message, { about: "direct" });
    store.triedAgain("direct");
    if (when && at === null) return refuse(`“${when}” is not a timecode; write 12.5, 0:12.5 or 00:00:12:08`);
    const done = () => this.empty(form, fields);
    if (take.status !== "live") {
      if (at !== null && at > take.made_seconds) {
        return refuse(`“${when}” is past what is made; name a moment up to ${clock(take.made_seconds)}`);
      }
      const block = at === null ? currentBlock() + 1 : blockFrom(take, at);
      if (await goOnWith({ do: "branch", block, prompt, seed: null, cut })) done();
      return;
    }
    const answer = await command({ do: "direct", prompt, at, cut });
    if (!answer) return;
    done();
    const moment = answer.takes_over_at ?? at;
    if (moment !== null) store.update({ note: `“${prompt}” ${cut ? "cuts in" : "takes over"} at ${clock(moment)}` });
  }
}

customElements.define("studio-direction", StudioDirection);
