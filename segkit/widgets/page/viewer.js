import { asker } from "./asking.js";
import { Stage, begin } from "./stage.js";

export default {
  render({ model, el }) {
    const stage = new Stage(model, asker(model), begin(el, "Image viewer"));
    return () => stage.close();
  },
};
