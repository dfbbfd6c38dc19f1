// What both kernels of augmentation share.

// Steps of color jitter.
const BRIGHTNESS: u32 = 1u;
const CONTRAST: u32 = 2u;
const SATURATION: u32 = 3u;
const HUE: u32 = 4u;

// The weights of red, green and blue in gray, as in torchvision (ITU-R BT.601, rounded).
const GRAY: vec3<f32> = vec3(0.2989, 0.587, 0.114);
// Where the ramps of red, green and blue start on the color wheel, in sixths of a turn.
const HUE_RAMPS: vec3<f32> = vec3(5.0, 3.0, 1.0);

// The random draw for a view.
struct Draw {
    picture: u32,
    top: u32,
    left: u32,
    height: u32,
    width: u32,
    flip: u32,
    gray: u32,
    // Pixels per side of the blur's kernel; 0 is no blur.
    blur_kernel: u32,
    blur_sigma: f32,
    solarize_threshold: f32,
    // Whether the resize is bilinear.
    bilinear: u32,
    unused: u32,
    // Up to four steps of color jitter, in order; 0 is none.
    jitter: vec4<u32>,
    amounts: vec4<f32>,
}

// Keys' cubic convolution kernel with a = -0.5, which Pillow and PyTorch's antialiased resize use.
fn cubic(distance: f32) -> f32 {
    let x = abs(distance);
    if x < 1.0 {
        return (1.5 * x - 2.5) * x * x + 1.0;
    } else if x < 2.0 {
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
    }
    return 0.0;
}

// The source pixels of one resized pixel, from `start` up to `end`.
struct Taps {
    start: u32,
    end: u32,
    center: f32,
    stretch: f32,
    bilinear: bool,
}

fn taps_of(i: u32, length: u32, bilinear: bool) -> Taps {
    let scale = f32(length) / f32(SIZE);
    let stretch = max(scale, 1.0);
    let support = select(2.0, 1.0, bilinear) * stretch;
    let center = scale * (f32(i) + 0.5);
    return Taps(
        u32(max(center - support + 0.5, 0.0)),
        min(u32(center + support + 0.5), length),
        center,
        stretch,
        bilinear,
    );
}

fn weight(taps: Taps, i: u32) -> f32 {
    let distance = (f32(i) - taps.center + 0.5) / taps.stretch;
    if taps.bilinear {
        return max(1.0 - abs(distance), 0.0);
    }
    return cubic(distance);
}

// The color `i` of a picture, between 0 and 1, from its word. Four are packed in a word, the first in the lowest bits.
fn byte(word: u32, i: u32) -> f32 {
    return f32((word >> (8u * (i % 4u))) & 255u) / 255.0;
}

fn shift_hue(color: vec3<f32>, turns: f32) -> vec3<f32> {
    let most = max(max(color.r, color.g), color.b);
    let chroma = most - min(min(color.r, color.g), color.b);
    let divisor = select(1.0, chroma, chroma > 0.0);
    var sixths = 4.0 + (color.r - color.g) / divisor;
    if most == color.r {
        sixths = (color.g - color.b) / divisor;
    } else if most == color.g {
        sixths = 2.0 + (color.b - color.r) / divisor;
    }
    let turned = HUE_RAMPS + sixths + 6.0 * turns + 6.0;
    let k = turned - 6.0 * floor(turned / 6.0);
    return most - chroma * clamp(min(k, 4.0 - k), vec3(0.0), vec3(1.0));
}

fn jitter(color: vec3<f32>, step: u32, amount: f32, mean_gray: f32) -> vec3<f32> {
    var other = 0.0;
    if step == HUE {
        return shift_hue(color, amount);
    } else if step == CONTRAST {
        other = mean_gray;
    } else if step == SATURATION {
        other = dot(color, GRAY);
    } else if step != BRIGHTNESS {
        return color;
    }
    return clamp(amount * color + (1.0 - amount) * other, vec3(0.0), vec3(1.0));
}

// The first step of color jitter that depends on all pixels: contrast; 4 if there is none.
fn contrast_step(draw: Draw) -> u32 {
    var found = 4u;
    for (var step = 0u; step < 4u; step++) {
        if draw.jitter[step] == CONTRAST { found = step; }
    }
    return found;
}

// The index `i` of a pixel, reflected at the borders without repeating the outermost pixel.
fn reflected(i: i32) -> u32 {
    let last = i32(SIZE) - 1;
    let inside = abs(i);
    return u32(select(inside, 2 * last - inside, inside > last));
}
