/** The Python that makes the picture on the page. */

import { weightsAt } from "./latents";
import type { Model } from "./model";
import type { State } from "./state";

/** Write a short program for fagan_hf; it prints nothing and saves face.png. */
export function pythonOf(model: Model, state: State): string {
  const { corners, point, truncation, strengths } = state;
  const moves = Object.entries(strengths).filter(([, strength]) => strength);
  const isPlain = weightsAt(point).some((weight) => weight === 1);
  const seed = corners[weightsAt(point).indexOf(1)];
  const gates = alphaOf(model, state);
  const labels = labelsOf(model, state);
  const options = [...(labels ? [`labels=${labels}`] : []), ...(gates ? [`alpha=${gates}`] : [])];
  const name = text(model.source);
  const lines: string[] = [];
  if (isPlain && !moves.length) {
    if (truncation !== 1) options.push(`truncation=${truncation}`);
    lines.push("from fagan_hf import FAGANPipeline", "", `pipe = FAGANPipeline.from_pretrained(${name})`);
    lines.push(`image = pipe(${[`seeds=[${seed}]`, ...options].join(", ")}).images[0]`);
  } else {
    const used = [...(moves.length ? ["Directions"] : []), "blend_latents"];
    lines.push("import torch", "from fagan_hf import FAGANPipeline", `from fagan_hf.latent_space import ${used.join(", ")}`);
    lines.push("from fagan_hf.sampling.images import latents_from_seeds", "");
    lines.push(`pipe = FAGANPipeline.from_pretrained(${name})`);
    lines.push(`corners = latents_from_seeds([${corners.join(", ")}], ${model.latent_dim})`);
    lines.push(`latents = blend_latents(corners, torch.tensor([[${weightsAt(point).map(digits).join(", ")}]]))`);
    if (moves.length) {
      const strengths = moves.map(([direction, strength]) => `${text(direction)}: ${strength}`).join(", ");
      lines.push(...directionsOf(model), `latents = directions.move(latents, {${strengths}})`);
    }
    const latents = truncation === 1 ? "latents" : `${truncation} * latents`;
    lines.push(`image = pipe(${[`latents=${latents}`, ...options].join(", ")}).images[0]`);
  }
  if (state.part === "attention" && !state.isWithoutAttention) {
    lines.push(`# The page also silences the convolution of ${comment(model.layers[state.layer].name)}, which no option does.`);
  }
  return [...lines, 'image.save("face.png")'].join("\n");
}

/** The directions are a file of the model's folder or repository. */
function directionsOf(model: Model): string[] {
  const file = "directions.safetensors";
  if (!model.hubId) return ["from pathlib import Path", `directions = Directions.load(Path(${text(model.source)}) / ${text(file)})`];
  return [
    "from pathlib import Path",
    "from huggingface_hub import hf_hub_download",
    `directions = Directions.load(Path(hf_hub_download(${text(model.hubId)}, ${text(file)})))`,
  ];
}

function digits(value: number): number {
  return Number(value.toPrecision(8));
}

function alphaOf(model: Model, state: State): string | null {
  if (state.isWithoutAttention) return "0.0";
  const changed = model.layers.flatMap(({ name, gate }, i) => {
    const isLeftOut = state.part === "convolution" && state.layer === i;
    const factor = isLeftOut ? 0 : state.factors[i];
    return factor === 1 ? [] : [`${text(name)}: ${Number((gate * factor).toPrecision(8))}`];
  });
  return changed.length ? `{${changed.join(", ")}}` : null;
}

function labelsOf(model: Model, state: State): string | null {
  if (!model.labels.length) return null;
  const entries = model.label_groups.map((group) => {
    if (group.length === 1) return `${text(group[0])}: ${state.labels[group[0]] > 0.5 ? "True" : "False"}`;
    const chosen = group.find((name) => state.labels[name] > 0.5) ?? group[0];
    const at = chosen.indexOf("=");
    return `${text(chosen.slice(0, at))}: ${text(chosen.slice(at + 1))}`;
  });
  return `{${entries.join(", ")}}`;
}

/** Quote as JSON does, which Python reads alike: names come from models of others. */
function text(value: string): string {
  return JSON.stringify(value);
}

function comment(value: string): string {
  return value.replace(/[^\w.]/g, "?");
}
