// The page of a run that goes on.

import { LiveSource } from "./live_source.js";
import { openEditor } from "./edit.js";
import { start } from "./main.js";

start(new LiveSource(), { openEditor });
