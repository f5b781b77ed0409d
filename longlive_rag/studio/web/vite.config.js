import { defineConfig } from "vite";

// File names carry no hashes, so that the committed page changes only where the source did.
export default defineConfig({
  build: {
    outDir: "../page",
    emptyOutDir: true,
    modulePreload: false,
    // An icon written into the page as data: would be refused by its content security policy.
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: "assets/studio.js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/studio[extname]",
      },
    },
  },
});
