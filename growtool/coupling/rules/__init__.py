"""What each kind of aten operation does to symbolic axes; `coupling.ops` says which operation follows which rule."""
