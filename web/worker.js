// The trainer: the page's own module, which finds out by itself that it runs in a worker.
import start from "./lab.js";

await start();
