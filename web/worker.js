// The trainer's worker. It loads the page's own module, which detects that it runs in a worker.
import start from "./lab.js";

await start();
