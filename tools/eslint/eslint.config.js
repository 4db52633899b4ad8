// The page's JavaScript: src/otel_httptrace/report/page. Modules in script/, which become one script; theme.js is one already.
import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2023, sourceType: "module", globals: globals.browser },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-implicit-globals": "error",
      "no-shadow": ["error", { hoist: "functions", builtinGlobals: false }],
      "no-use-before-define": ["error", { functions: false }],
      "no-var": "error",
      "prefer-const": "error",
      eqeqeq: "error",
    },
  },
  { files: ["**/theme.js"], languageOptions: { sourceType: "script" } },
];
