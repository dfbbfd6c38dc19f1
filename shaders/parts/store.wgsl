            // Its row r, with the product `sum`.
            let row = stored_row(first_row + tile_row(r, thread_row), last_row, part, workgroup.z);
            if row != OUTSIDE && quad < sizes.column_quads {
                let at = row * sizes.column_quads + quad;
                var values = sum;
//# if ACCUMULATE
                values += vec4<f32>(product[sizes.product_start + at]);
//# end
//# if RESIDUAL
                values += vec4<f32>(residual[at]);
//# end
//# if MASK_STORED
                values = select(values, vec4(0.0), vec4<f32>(outputs[at]) <= vec4(0.0));
//# end
//# if GRADIENT_SUMS
                let input = vec4<f32>(inputs[at]);
//# if MASK_NORMALIZED
                values = select(values, vec4(0.0), input * mask_factor + mask_shift <= vec4(0.0));
//# end
                second += values * (input - mean);
//# end
//# if STATISTICS || GRADIENT_SUMS
                first += values;
//# end
                product[sizes.product_start + at] = stored(values);
            }
