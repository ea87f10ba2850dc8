// The page's behaviour, in small modules. Everything works without it except what says so; nothing here evaluates text.
import "./theme.js";
import "./menu.js";
import "./dialog.js";
import "./toast.js";
import "./copy.js";
import "./drafts.js";
import "./live.js";
import "./stack.js";
import "./table.js";
import "./palette.js";
import "./picker.js";
