"""`ggq edit` and `ggq repack`: change metadata by appending a new index, and drop what that left behind."""

from __future__ import annotations
