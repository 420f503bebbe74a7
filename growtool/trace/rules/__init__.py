"""What each kind of aten operation does to symbolic axes; `trace.ops` says which operation follows which rule."""
