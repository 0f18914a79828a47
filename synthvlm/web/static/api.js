// Ask the server: JSON in and out. What a user can mend comes as an ApiError with a hint.

export class ApiError extends Error {
  constructor(message, hint, status) {
    super(hint ? `${message} – ${hint}` : message);
    this.status = status;
  }
}

async function answer(response) {
  if (response.ok) return response.json();
  let told = {};
  try {
    told = await response.json();
  } catch {
    // a plain refusal, such as that of another session's page
  }
  throw new ApiError(told.error ?? (response.status === 403 ? "This page is of another session: open the link that the command printed last" : `The server answered ${response.status}`), told.hint, response.status);
}

/** GET with query parameters; lists repeat, empty ones are left out. */
export async function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "" && one !== false) query.append(name, one);
    }
  }
  return answer(await fetch(query.size ? `${path}?${query}` : path, { signal }));
}

/** POST a JSON body. */
export async function post(path, body) {
  return answer(await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }));
}
