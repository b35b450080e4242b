"""The OpenAPI document: what each address takes and answers, for readers and tools. No request runs any of it."""
