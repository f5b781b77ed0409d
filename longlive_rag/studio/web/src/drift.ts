import type { Drift } from "./schema";

/** Below this, the least of what is shown is the scale's end. */
const LOW = 0.8;

/** The smallest value of all curves, so that they are drawn to one scale; the largest is 1. */
export function lowest(drifts: Drift[]): number {
  return Math.min(LOW, ...drifts.flatMap(({ values }) => values).filter((value) => value !== null));
}

/** The curve as an SVG path in a square of 100: across `end` seconds, up from `low` to 1. Broken where nothing was compared. */
export function driftPath({ seconds, values }: Drift, end: number, low: number): string {
  const points = values.map((value, index) => {
    if (value === null) return "";
    const begins = index === 0 || values[index - 1] === null;
    const x = (100 * seconds[index]) / end;
    return `${begins ? "M" : "L"}${x.toFixed(2)},${(2 + (96 * (1 - value)) / (1 - low)).toFixed(2)}`;
  });
  return points.join("");
}

/** "D30 0.012 · D60 –": how far it is from its beginning after so many seconds. */
export function figures({ D }: Drift): string {
  const said = HORIZONS.map((seconds) => `D${seconds} ${D[seconds]?.toFixed(3) ?? "–"}`);
  return said.join(" · ");
}

const HORIZONS = [30, 60, 120];
