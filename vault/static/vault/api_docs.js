// Draws the API's description. A file of its own, because our Content-Security-Policy admits no inline script.
"use strict";

(function () {
  const place = document.getElementById("api");

  // "Try it out" with a session needs the CSRF token, which auth/me tells.
  let csrfToken = null;
  const ready = fetch("/api/v1/auth/me", { credentials: "same-origin" })
    .then((answer) => (answer.ok ? answer.json() : null))
    .then((me) => { csrfToken = me && me.csrf_token; })
    .catch(() => { csrfToken = null; });

  ready.then(() => {
    window.SwaggerUIBundle({
      url: place.dataset.document,
      domNode: place,
      deepLinking: true,
      docExpansion: "none",
      defaultModelsExpandDepth: 0,
      validatorUrl: null,
      requestInterceptor: (request) => {
        if (csrfToken && request.url.startsWith(window.location.origin)) {
          request.headers["X-CSRFToken"] = csrfToken;
        }
        return request;
      },
    });
  });
})();
