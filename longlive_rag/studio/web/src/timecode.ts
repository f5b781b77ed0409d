/** Moments of a take, as people write them: 12.5, 0:12.5, 1:02:03.5 or SMPTE 00:00:12:08. */

const CLOCK = /^(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d*)?|\.\d+)$/;
const SMPTE = /^(\d{1,6}):(\d{1,6}):(\d{1,6}):(\d{1,6})$/;

/** The seconds that `text` means, or null. */
export function parseTimecode(text: string, fps: number): number | null {
  const word = text.trim();
  const smpte = SMPTE.exec(word);
  if (smpte) {
    const [hours, minutes, seconds, frames] = smpte.slice(1).map(Number);
    if (minutes >= 60 || seconds >= 60 || frames >= fps) return null;
    return hours * 3600 + minutes * 60 + seconds + frames / fps;
  }
  const clock = CLOCK.exec(word);
  if (!clock) return null;
  const hours = Number(clock[1] ?? 0);
  const minutes = Number(clock[2] ?? 0);
  const seconds = Number(clock[3]);
  if ((clock[1] && minutes >= 60) || (clock[2] && seconds >= 60)) return null;
  return hours * 3600 + minutes * 60 + seconds;
}

/** 00:00:12:08, hours:minutes:seconds:frames. */
export function smpte(frame: number, fps: number): string {
  const seconds = Math.floor(frame / fps);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60, frame % fps];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/** 0:12.1, short enough for labels. */
export function clock(seconds: number): string {
  const tenths = Math.round(seconds * 10);
  const whole = Math.floor(tenths / 10);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}.${tenths % 10}`;
}

export function megabytes(bytes: number): string {
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(0)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
