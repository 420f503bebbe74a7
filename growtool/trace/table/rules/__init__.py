"""What each kind of aten operation does to symbolic axes; `trace.table.ops` says which operation follows which rule."""
