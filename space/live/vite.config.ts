import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

// Lets WebAssembly use several threads.
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** Write offline.js with the list of what the page needs without a connection: all but the runtime for WebGPU. */
function offline(): Plugin {
  return {
    name: "offline",
    apply: "build",
    generateBundle(_, bundle) {
      const built = Object.keys(bundle).filter((name) => !/asyncify|\.html$|webgpu/.test(name));
      const files = ["./", "icon.svg", "model/web.json", "model/generator.onnx", ...built];
      const version = createHash("sha256").update(files.join()).digest("hex").slice(0, 12);
      const source = readFileSync(new URL("src/offline.js", import.meta.url), "utf8")
        .replace("/* filled in by vite.config.ts */ []", JSON.stringify(files))
        .replace("VERSION", version);
      this.emitFile({ type: "asset", fileName: "offline.js", source });
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [offline()],
  worker: { format: "es" },
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "import", "module", "browser", "default"] },
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { headers },
  preview: { headers },
});
