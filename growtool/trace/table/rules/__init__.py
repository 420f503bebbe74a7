"""Rules: what each sort of aten operation does to symbolic axes. `trace.table.ops` says which operation has which."""
