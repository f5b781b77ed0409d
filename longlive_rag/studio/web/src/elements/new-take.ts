import { css, html, nothing } from "lit";
import { begin, isDirectedElsewhere, takeOver } from "../actions";
import { api, Refusal } from "../api";
import type { Backbone, FieldError, Knob, NewTake as NewTakeRequest, Span, Take } from "../schema";
import { store } from "../store";
import { parseTimecode } from "../timecode";
import { shared, StudioDialog } from "./base";
import "./take-strip";
import "./unread-words";

/** The dialog "New take"; what is right is the server's say, and its messages stand at their fields. */
export class NewTake extends StudioDialog {
  static override properties = {
    errors: { state: true },
    backboneName: { state: true },
    startImage: { state: true },
    busy: { state: true },
    isLocked: { state: true },
    typed: { state: true },
    remembered: { state: true },
    range: { state: true },
  };
  declare errors: FieldError[];
  declare backboneName: string | null;
  declare startImage: { id: string; picture: ImageBitmap } | null;
  declare busy: boolean;
  /** Another window directs. */
  declare isLocked: boolean;
  declare typed: string;
  /** The take that is to be remembered, by id, and which seconds of it. */
  declare remembered: string;
  declare range: Span | null;
  protected watches = ["dialog", "studio", "takes", "take"] as const;
  protected named = "new" as const;

  static override styles = [
    shared,
    css`
      dialog {
        width: min(46em, 94vw);
        max-height: 92vh;
      }
      h1 {
        margin: 0 0 0.7em;
        font-size: 1.2em;
      }
      .fields {
        display: grid;
        grid-template-columns: repeat(3, minmax(0, 1fr));
        gap: 0.7em 0.9em;
      }
      .field {
        display: grid;
        gap: 0.2em;
        align-content: start;
      }
      .wide {
        grid-column: 1 / -1;
      }
      .check {
        display: flex;
        gap: 0.5em;
        align-items: center;
      }
      .drop {
        display: flex;
        flex-wrap: wrap;
        gap: 0.8em;
        align-items: center;
        min-height: 4.2em;
        padding: 0.4em 0.7em;
        border: 1px dashed #6b727b;
      }
      canvas {
        width: 7em;
        height: 4.6em;
      }
      details {
        margin-top: 0.8em;
      }
      details .fields {
        grid-template-columns: repeat(2, minmax(0, 1fr));
        padding: 0.6em 0;
        max-height: 34vh;
        overflow-y: auto;
      }
      @media (width < 40em) {
        .fields,
        details .fields {
          grid-template-columns: minmax(0, 1fr);
        }
      }
      small {
        color: var(--quiet);
      }
      .error {
        color: var(--live);
      }
      .whole {
        display: flex;
        gap: 0.8em;
        align-items: center;
        margin-top: 0.6em;
      }
      footer {
        display: flex;
        justify-content: flex-end;
        gap: 0.5em;
        margin-top: 1em;
      }
    `,
  ];

  constructor() {
    super();
    this.errors = [];
    this.backboneName = null;
    this.startImage = null;
    this.busy = false;
    this.isLocked = false;
    this.typed = "";
    this.remembered = "";
    this.range = null;
  }

  /** A picture may be dropped anywhere on the page: a take is begun with it. */
  override connectedCallback(): void {
    super.connectedCallback();
    addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
    addEventListener("drop", (event) => this.drop(event));
  }

  private get backbone(): Backbone | undefined {
    const all = this.state.studio?.backbones ?? [];
    return all.find((each) => each.name === this.backboneName) ?? all.find((each) => each.default) ?? all[0];
  }

  override render() {
    const { studio, take } = this.state;
    const { backbone } = this;
    return html`<dialog aria-label="New take" @close=${this.closed}>
      <form @submit=${this.submit}>
        <h1>New take</h1>
        <div class="fields">
          <label class="field wide">
            Prompt
            <input
              name="prompt"
              aria-label="Prompt"
              dir="auto"
              required
              placeholder="a red circle walks in a meadow"
              autocomplete="off"
              @input=${(event: InputEvent) => (this.typed = (event.target as HTMLInputElement).value)}
            />
            <unread-words .backbone=${backbone?.name ?? ""} .prompt=${this.typed}></unread-words>
            ${this.error("prompt")}
          </label>
          <label class="field">Seconds<input name="seconds" aria-label="Seconds" value="30" />${this.error("seconds")}</label>
          <label class="field">Seed<input name="seed" aria-label="Seed" value="0" inputmode="numeric" />${this.error("seed")}</label>
          <label class="field">
            Backbone
            <select name="backbone" aria-label="Backbone" @change=${(event: Event) => (this.backboneName = (event.target as HTMLSelectElement).value)}>
              ${studio?.backbones.map((each) => html`<option ?selected=${each === backbone}>${each.name}</option>`)}
            </select>
            ${this.error("backbone")}
          </label>
          ${this.imageField()}
          ${this.rememberFields()}
        </div>
        <details>
          <summary>Settings</summary>
          <div class="fields">${backbone?.settings.map((knob) => this.knob(knob))}</div>
        </details>
        <div class="whole">
          ${this.error("")}
          ${this.isLocked && take ? html`<button type="button" @click=${() => this.takeOver(take)}>Direct from here</button>` : nothing}
        </div>
        <footer>
          <button type="button" @click=${() => this.dialog.close()}>Cancel</button>
          <button class="primary" ?disabled=${this.busy}>${this.busy ? "Starting …" : "Start"}</button>
        </footer>
      </form>
    </dialog>`;
  }

  private imageField() {
    return html`<div class="field wide">
      <span class="drop">
        <label>Start image <input type="file" aria-label="Start image" accept="image/png,image/jpeg" @change=${this.chooseFile} /></label>
        ${this.startImage
          ? html`<canvas role="img" width="240" height="160" aria-label="The start image"></canvas>
              <button type="button" @click=${() => (this.startImage = null)}>Remove</button>`
          : html`<small>or drop a PNG or JPEG anywhere; the take begins with it</small>`}
      </span>
      ${this.error("start_image")}
    </div>`;
  }

  private rememberFields() {
    const { takes } = this.state;
    const take = takes.find((each) => each.id === this.remembered);
    return html`
      <label class="check"><input type="checkbox" name="memory" checked />Memory</label>
      <label class="field">
        Remember another take
        <select
          name="remember"
          aria-label="Remember another take"
          @change=${(event: Event) => {
            this.remembered = (event.target as HTMLSelectElement).value;
            this.range = null;
          }}
        >
          <option value="">none</option>
          ${takes.map((each) => html`<option value=${each.id} ?selected=${each.id === this.remembered}>${each.name}</option>`)}
        </select>
      </label>
      <label class="field">
        From – to
        <input
          name="span"
          aria-label="Range to remember"
          placeholder="0:00.0 – 0:02.5"
          ?disabled=${!take}
          .value=${this.range ? this.range.map((seconds) => seconds.toFixed(2)).join(" – ") : ""}
          @change=${(event: Event) => (this.range = asRange((event.target as HTMLInputElement).value, take?.fps ?? 1))}
        />
      </label>
      <div class="field wide">
        ${take
          ? html`<small>The new take can bring back these frames, so it knows who is in them. Choose the first one, then the last one.</small>
              <take-strip .take=${take} .range=${this.range} @chosen=${(event: CustomEvent<Span>) => (this.range = event.detail)}></take-strip>`
          : nothing}
        ${this.error("remember")}
      </div>
    `;
  }

  private knob(knob: Knob) {
    const preset = knob.default === null || knob.default === undefined ? "" : String(knob.default);
    const choices = knob.type === "bool" ? ["true", "false"] : knob.choices;
    return html`<label class="field">
      <span>${knob.name.replaceAll("_", " ")}${knob.unit ? html` <small>(${knob.unit})</small>` : nothing}</span>
      ${choices
        ? html`<select data-knob=${knob.key} aria-label=${knob.name.replaceAll("_", " ")}>
            <option value="">${preset ? `default: ${preset}` : "default"}</option>
            ${choices.map((choice) => html`<option>${choice}</option>`)}
          </select>`
        : html`<input data-knob=${knob.key} aria-label=${knob.name.replaceAll("_", " ")} placeholder=${preset} />`}
      <small>${knob.help}</small>
      ${this.error(knob.name)}
    </label>`;
  }

  /** The server's message about a field; "" stands for all that have none here. */
  private error(field: string) {
    const shown = new Set(["prompt", "seconds", "seed", "backbone", "start_image", "remember", ...this.knobNames()]);
    const here = this.errors.filter((error) => (field ? error.field === field : !shown.has(error.field)));
    return here.map((error) => html`<span class="error" role="alert">${error.message}</span>`);
  }

  private knobNames(): string[] {
    return this.backbone?.settings.map((knob) => knob.name) ?? [];
  }

  protected override updated(): void {
    super.updated();
    const canvas = this.renderRoot.querySelector("canvas");
    if (canvas && this.startImage) drawWhole(canvas, this.startImage.picture);
  }

  private async takeOver(take: Take): Promise<void> {
    await takeOver(take);
    this.errors = [];
    this.isLocked = false;
  }

  protected override closed(): void {
    this.errors = [];
    super.closed();
  }

  private chooseFile(event: Event): void {
    const file = (event.target as HTMLInputElement).files?.[0];
    if (file) void this.upload(file);
  }

  private drop(event: DragEvent): void {
    if (!hasFile(event)) return;
    event.preventDefault();
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    store.update({ dialog: "new" });
    void this.upload(file);
  }

  private async upload(file: File): Promise<void> {
    await this.showingErrors("start_image", async () => {
      // The server is asked first, since what it refuses may be nothing that can be drawn.
      const { id } = await api.upload(file);
      this.startImage = { id, picture: await createImageBitmap(file) };
    });
  }

  private async submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const form = event.target as HTMLFormElement;
    this.busy = true;
    await this.showingErrors("", async () => {
      await begin(this.request(form));
      form.reset();
      this.typed = "";
      this.startImage = null;
      this.remembered = "";
      this.range = null;
      await this.updateComplete;
      this.dispatchEvent(new CustomEvent("begun"));
    });
    this.busy = false;
  }

  private request(form: HTMLFormElement): NewTakeRequest {
    const fields = new FormData(form);
    const text = (name: string) => String(fields.get(name) ?? "").trim();
    const remembered = this.state.takes.find((take) => take.id === this.remembered);
    if (!this.range && text("span")) throw notARange(text("span"));
    const [from, to] = this.range ?? [0, remembered?.made_seconds ?? 0];
    return {
      prompt: text("prompt"),
      seconds: text("seconds"),
      seed: text("seed"),
      backbone: text("backbone") || null,
      // Without memory is a wish; with it is what the backbone does anyway.
      memory: fields.has("memory") ? null : false,
      start_image: this.startImage?.id ?? null,
      remember: remembered ? [{ take: remembered.id, from, to }] : [],
      settings: this.settings(form),
    };
  }

  private settings(form: HTMLFormElement): Record<string, unknown> {
    const settings: Record<string, unknown> = {};
    for (const control of form.querySelectorAll<HTMLInputElement>("[data-knob]")) {
      const knob = this.backbone!.settings.find((each) => each.key === control.dataset.knob)!;
      if (control.value.trim()) settings[knob.key] = settingValue(knob, control.value.trim());
    }
    return settings;
  }

  /** The first message is made visible, and its field gets the focus. */
  private showError(): void {
    const error = this.renderRoot.querySelector(".error");
    const details = error?.closest("details");
    if (details) details.open = true;
    error?.closest("label")?.querySelector<HTMLElement>("input, select")?.focus();
    error?.scrollIntoView({ block: "nearest" });
  }

  /** Does something that the server may refuse; what is said of it stands at `field`, or where it belongs if that is "". */
  private async showingErrors(field: string, work: () => Promise<void>): Promise<void> {
    this.errors = [];
    this.isLocked = false;
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.isLocked = isDirectedElsewhere(error);
      const whole = { field, value: null, wanted: "", message: error.message };
      this.errors = error.fields.length && !field ? error.fields : [whole];
      await this.updateComplete;
      this.showError();
    }
  }
}

function hasFile(event: DragEvent): boolean {
  return !!event.dataTransfer?.types.includes("Files");
}

/** A picture in the middle of a canvas, as large as it can be. */
function drawWhole(canvas: HTMLCanvasElement, picture: ImageBitmap): void {
  const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const context = canvas.getContext("2d")!;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

/** "0:01 – 0:02.5"; null where that is no range. */
function asRange(text: string, fps: number): Span | null {
  const [from, to] = text.split(/[-–]/).map((part) => parseTimecode(part, fps));
  return from === null || to === null || to === undefined ? null : [from, to];
}

function notARange(text: string): Refusal {
  const wanted = "write two moments of it, like 0:01 – 0:02.5";
  const message = `“${text}” is not a range of that take; ${wanted}`;
  return new Refusal(422, message, [{ field: "remember", value: text, wanted, message }]);
}

/** Numbers as numbers; what is none goes to the server as it was written, which says what would be right. */
function asNumber(text: string): number {
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : (text as unknown as number);
}

function settingValue(knob: Knob, text: string): unknown {
  const numbers = (part: string, between: string) => part.split(between).map((each) => asNumber(each.trim()));
  switch (knob.type) {
    case "int":
    case "float":
      return asNumber(text);
    case "bool":
      return text === "true";
    case "steps":
      return numbers(text, ",");
    case "span":
      return numbers(text, "-");
    case "spans":
      return text.split(",").map((span) => numbers(span, "-"));
    case "texts":
      return text.split(",").map((each) => each.trim());
    default:
      return text;
  }
}

customElements.define("new-take", NewTake);
