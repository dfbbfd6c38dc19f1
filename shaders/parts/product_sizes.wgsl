    // Of the product; columns in quads.
    rows: u32,
    column_quads: u32,
    // Rows of a view, and their tiles. A tile never has rows of two views.
    view_rows: u32,
    view_tiles: u32,
    // The length of k; of k in a view; and of the part that a workgroup takes (split-K), in so many parts per view.
    inner: u32,
    view_inner: u32,
    part_inner: u32,
    view_parts: u32,
    // Where the operands and the product start in their buffers, in quads, and quads between rows of a stored operand.
    left_start: u32,
    right_start: u32,
    product_start: u32,
    left_pitch: u32,
    right_pitch: u32,
    scale: f32,
    // The weight of the redundancy term, for the gradient of the loss.
    lambda: f32,
    // Infinity, which WGSL has no literal for.
    infinity: f32,
    // ROWS and COLUMN_QUADS.
    thread_rows: u32,
    thread_quads: u32,
