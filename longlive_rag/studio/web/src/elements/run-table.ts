import { css, html, nothing } from "lit";
import { copy, openTake, save } from "../actions";
import { api } from "../api";
import { listed, store } from "../store";
import { clock } from "../timecode";
import { shared, StudioDialog } from "./base";

interface Row {
  id: string;
  command: string;
  python: string;
  cells: Record<string, string>;
}

const ALWAYS = ["name", "status", "made", "seed", "backbone"];

/** All listed takes with the settings in which they differ, to sort by eye or to take along as CSV. */
export class RunTable extends StudioDialog {
  static override properties = { rows: { state: true } };
  declare rows: Row[] | null;
  protected watches = ["dialog"] as const;
  protected named = "runs" as const;

  static override styles = [
    shared,
    css`
      dialog {
        width: 94vw;
        max-height: 90vh;
      }
      .head {
        display: flex;
        gap: 0.5em;
        align-items: center;
        margin-bottom: 0.8em;
      }
      h2 {
        flex: 1;
      }
      .scrolled {
        overflow: auto;
      }
      table {
        border-collapse: collapse;
        font-variant-numeric: tabular-nums;
      }
      th,
      td {
        padding: 0.25em 0.9em 0.25em 0;
        text-align: left;
        border-bottom: 1px solid var(--line);
        white-space: nowrap;
        max-width: 18em;
        overflow: hidden;
        text-overflow: ellipsis;
      }
      th {
        color: var(--quiet);
        font-weight: 500;
      }
      .copies button + button {
        margin-left: 0.6em;
      }
      td button {
        border: none;
        background: none;
        padding: 0;
        text-decoration: underline;
      }
    `,
  ];

  constructor() {
    super();
    this.rows = null;
  }

  override render() {
    return html`<dialog aria-label="Runs" @close=${this.closed}>
      <div class="head">
        <h2>Runs</h2>
        <button ?disabled=${!this.rows} @click=${this.saveCsv}>Save as CSV</button>
        <button @click=${() => store.update({ dialog: null })}>Close</button>
      </div>
      ${this.rows ? this.table(this.rows) : html`<p class="quiet">Reading the takes …</p>`}
    </dialog>`;
  }

  private table(rows: Row[]) {
    const [first, ...columns] = differing(rows);
    return html`<div class="scrolled">
      <table>
        <thead>
          <tr>
            <th scope="col">${first}</th>
            <th scope="col">copy as</th>
            ${columns.map((column) => html`<th scope="col">${column}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${rows.map(
            ({ id, cells, command, python }) => html`<tr>
              <td><button @click=${() => this.open(id)}>${cells[first]}</button></td>
              <td class="copies">
                <button aria-label="Copy ${cells.name} as command" @click=${() => copy(command, "command")}>command</button>
                <button aria-label="Copy ${cells.name} as Python" @click=${() => copy(python, "Python")}>Python</button>
              </td>
              ${columns.map((column) => html`<td title=${cells[column] ?? nothing}>${cells[column] ?? ""}</td>`)}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
  }

  protected override async opened(): Promise<void> {
    this.rows = null;
    const read = await Promise.all(listed(this.state).map((take) => api.take(take.id).catch(() => null)));
    const details = read.filter((detail) => detail !== null);
    this.rows = details.map((detail) => {
      const facts = { name: detail.name, status: detail.status, made: clock(detail.made_seconds) };
      const more = { ...facts, seed: detail.seed, backbone: detail.backbone };
      const { id, command, python } = detail;
      return { id, command, python, cells: { ...flat(detail.request), ...more } };
    });
  }

  private open(id: string): void {
    store.update({ dialog: null });
    void openTake(id);
  }

  private saveCsv(): void {
    const columns = differing(this.rows!);
    const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
    const lines = [columns, ...this.rows!.map(({ cells }) => columns.map((column) => cells[column] ?? ""))];
    const text = lines.map((line) => line.map(quoted).join(",")).join("\r\n");
    save(new Blob([text], { type: "text/csv" }), "runs.csv");
  }
}

/** {"memory": {"policy": "similar"}} becomes {"memory.policy": "similar"}. */
function flat(value: Record<string, unknown>, before = ""): Record<string, string> {
  const cells: Record<string, string> = {};
  for (const [key, inner] of Object.entries(value)) {
    const nested = inner !== null && typeof inner === "object" && !Array.isArray(inner);
    if (nested) Object.assign(cells, flat(inner as Record<string, unknown>, `${before}${key}.`));
    else cells[before + key] = typeof inner === "string" ? inner : JSON.stringify(inner);
  }
  return cells;
}

function differing(rows: Row[]): string[] {
  const keys = new Set(rows.flatMap(({ cells }) => Object.keys(cells)));
  const differs = (key: string) => new Set(rows.map(({ cells }) => cells[key])).size > 1;
  return [...ALWAYS, ...[...keys].filter((key) => !ALWAYS.includes(key) && differs(key))];
}

customElements.define("run-table", RunTable);
