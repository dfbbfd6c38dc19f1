        // The epilogue of a thread's column q.
        let tile_quad = thread_column + q * THREAD_COLUMNS;
        let quad = first_quad + tile_quad;
//# if STATISTICS || GRADIENT_SUMS
        var first = vec4(0.0);
//# end
//# if GRADIENT_SUMS
        var second = vec4(0.0);
        var mean = vec4(0.0);
        var mask_factor = vec4(1.0);
        var mask_shift = vec4(0.0);
        if quad < sizes.column_quads {
            let numbers = 4u * row_view * sizes.column_quads + quad;
            mask_factor = statistics[numbers];
            mask_shift = statistics[numbers + sizes.column_quads];
            mean = statistics[numbers + 2u * sizes.column_quads];
        }
//# end
