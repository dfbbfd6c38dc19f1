// The trainer's worker.
import start from "./trainer.js";

await start();
