import { css, html, LitElement } from "lit";
import { api } from "../api";

/** A made frame of a take, fetched once it is in sight; keeps its room until then. */
export class FramePicture extends LitElement {
  static override properties = {
    take: {},
    frame: { type: Number },
    ratio: { type: Number },
    inSight: { state: true },
  };
  declare take: string;
  declare frame: number;
  /** Width by height. */
  declare ratio: number;
  declare inSight: boolean;
  private sight = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    this.inSight = true;
    this.sight.disconnect();
  });

  static override styles = css`
    :host {
      display: block;
      background: #000;
      overflow: hidden;
    }
    canvas {
      display: block;
      width: 100%;
      height: 100%;
      object-fit: cover;
    }
  `;

  override connectedCallback(): void {
    super.connectedCallback();
    if (!this.inSight) this.sight.observe(this);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.sight.disconnect();
  }

  override render() {
    return html`<canvas width="160" height=${Math.round(160 / (this.ratio || 1))} aria-hidden="true"></canvas>`;
  }

  override async updated(): Promise<void> {
    const { take, frame } = this;
    if (!this.inSight || !take || frame < 0) return;
    const picture = await api.picture(take, frame, 160).catch(() => null);
    if (!picture || take !== this.take || frame !== this.frame) return;
    const canvas = this.renderRoot.querySelector("canvas")!;
    canvas.getContext("2d")!.drawImage(picture, 0, 0, canvas.width, canvas.height);
  }
}

customElements.define("frame-picture", FramePicture);
